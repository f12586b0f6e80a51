//! All figures of a report, and queries on them.
use super::{
    contender::Contender,
    figure::{Figure, Unit},
    workload::{Choice, Place, Workload},
};

/// Figures, at most one of each measurement.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<Figure>);

/// The conditions of a figure to find; see [`Figure`].
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// The measured contender.
    pub contender: Contender,
    /// Its work.
    pub workload: Workload,
    /// Number of configured customers.
    pub customers: u32,
    /// The customer that the packets belong to.
    pub place: Place,
    /// Number of open flows.
    pub flows: u32,
    /// The distribution of packets over flows.
    pub choice: Choice,
    /// Size of a frame in bytes.
    pub frame_bytes: u32,
    /// Unit of the value.
    pub unit: Unit,
}

impl Query {
    /// Returns the query for instructions with one customer, one flow and frames of 64 bytes.
    pub fn new(contender: Contender, workload: Workload) -> Self {
        Self {
            contender,
            workload,
            customers: 1,
            place: Place::Last,
            flows: 1,
            choice: Choice::Uniform,
            frame_bytes: 64,
            unit: Unit::Instructions,
        }
    }

    /// Returns the same query with another number of customers.
    pub fn customers(self, customers: u32) -> Self {
        Self { customers, ..self }
    }

    /// Returns the same query for another contender.
    pub fn of(self, contender: Contender) -> Self {
        Self { contender, ..self }
    }

    fn fits(&self, figure: &Figure) -> bool {
        let packets = matches!(self.unit, Unit::Instructions | Unit::Nanoseconds | Unit::Ratio);
        self.contender == figure.contender
            && self.workload == figure.workload
            && self.customers == figure.customers
            && self.unit == figure.unit
            // Without packets the other conditions mean nothing.
            && (!packets
                || (self.frame_bytes == figure.frame_bytes
                    && self.flows == figure.flows
                    && (self.choice == figure.choice || self.flows == 1)
                    // A single customer is the first and the last.
                    && (self.place == figure.place || self.customers == 1)))
    }
}

/// Returns the query that finds the figure.
impl From<&Figure> for Query {
    fn from(figure: &Figure) -> Self {
        let Figure { contender, workload, customers, place, flows, choice, frame_bytes, unit, .. } = *figure;
        Self { contender, workload, customers, place, flows, choice, frame_bytes, unit }
    }
}

impl Figures {
    /// Sorts the figures, so that files differ only where figures do. Keeps only the last of several
    /// figures of one measurement.
    pub fn new(figures: impl IntoIterator<Item = Figure>) -> Self {
        let mut all: Vec<Figure> = figures.into_iter().collect();
        all.reverse();
        all.sort_by_key(key);
        all.dedup_by_key(|figure| key(figure));
        Self(all)
    }

    /// Returns all figures.
    pub fn iter(&self) -> impl Iterator<Item = &Figure> {
        self.0.iter()
    }

    /// Returns the figure that a query describes, if it was measured.
    pub fn find(&self, query: Query) -> Option<&Figure> {
        self.0.iter().find(|figure| query.fits(figure))
    }

    /// Returns the value of the figure that a query describes.
    pub fn value(&self, query: Query) -> Option<f64> {
        self.find(query).map(|figure| figure.value)
    }

    /// Returns the cost of the gateway: the whole run minus the same packets dropped at the first ingress
    /// hook. The numbers of customers and flows do not affect that drop.
    pub fn cost(&self, query: Query) -> Option<f64> {
        let whole = self.find(query)?;
        let mut drop = self.value(query.of(Contender::IngressDrop));
        for (customers, flows) in [(1, query.flows), (1, 1)] {
            let fewer = Query { customers, flows, ..query.of(Contender::IngressDrop) };
            drop = drop.or_else(|| self.value(fewer));
        }
        Some(whole.value - drop?)
    }

    /// Returns the cost of forwarding without a firewall. The number of customers does not affect it.
    pub fn floor(&self, query: Query) -> Option<f64> {
        let floor = query.of(Contender::Forwarding);
        self.cost(floor)
            .or_else(|| self.cost(floor.customers(1)))
            .or_else(|| self.cost(Query { flows: 1, ..floor.customers(1) }))
    }

    /// Returns the cost above the floor.
    pub fn tax(&self, query: Query) -> Option<f64> {
        Some(self.cost(query)? - self.floor(query)?)
    }

    /// Returns the numbers of customers of all wanted figures.
    pub fn customers(&self, wanted: impl Fn(&Figure) -> bool) -> Vec<u32> {
        distinct(self.0.iter().filter(|figure| wanted(figure)).map(|figure| figure.customers))
    }

    /// Returns the numbers of flows of all wanted figures.
    pub fn flows(&self, wanted: impl Fn(&Figure) -> bool) -> Vec<u32> {
        distinct(self.0.iter().filter(|figure| wanted(figure)).map(|figure| figure.flows))
    }
}

fn distinct(numbers: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn key(figure: &Figure) -> (Unit, Workload, Contender, u32, Place, u32, Choice, u32) {
    (
        figure.unit,
        figure.workload,
        figure.contender,
        figure.customers,
        figure.place,
        figure.flows,
        figure.choice,
        figure.frame_bytes,
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a figure measured under the usual conditions.
    pub fn figure(
        contender: Contender,
        workload: Workload,
        customers: u32,
        unit: Unit,
        value: f64,
    ) -> Figure {
        Figure {
            contender,
            workload,
            customers,
            place: Place::Last,
            flows: 1,
            choice: Choice::Uniform,
            frame_bytes: 64,
            unit,
            value,
            low: value,
            high: value,
            rounds: 3,
        }
    }

    #[test]
    fn cost_excludes_generator_and_tax_excludes_forwarding() {
        let instructions =
            |contender, value| figure(contender, Workload::Established, 1, Unit::Instructions, value);
        let mut figures = vec![
            instructions(Contender::Forwarding, 8923.0),
            instructions(Contender::IngressDrop, 5871.0),
            instructions(Contender::Nftables, 1.0),
            instructions(Contender::Nftables, 10_998.0),
        ];
        figures.push(Figure { customers: 1000, ..instructions(Contender::Redirect, 8485.0) });
        let figures = Figures::new(figures);
        let of = |contender| Query::new(contender, Workload::Established);
        assert_eq!(figures.cost(of(Contender::Forwarding)), Some(3052.0));
        assert_eq!(figures.tax(of(Contender::Nftables)), Some(2075.0));
        assert_eq!(figures.tax(of(Contender::Redirect).customers(1000)), Some(-438.0));
        assert_eq!(figures.tax(of(Contender::Redirect)), None);
        assert_eq!(figures.cost(Query { frame_bytes: 1400, ..of(Contender::Nftables) }), None);
    }
}
