//! All figures of a report, and questions to them.
use super::figure::{Choice, Contender, Figure, Place, Unit, Workload};

/// Figures, each measurement once.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<Figure>);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// What was measured.
    pub contender: Contender,
    /// What it had to do.
    pub workload: Workload,
    /// Customers that are configured.
    pub customers: u32,
    /// Which customer the packets are of.
    pub place: Place,
    /// Flows that are open.
    pub flows: u32,
    /// How packets choose among them.
    pub choice: Choice,
    /// Bytes of a frame.
    pub frame_bytes: u32,
    /// Unit of the value.
    pub unit: Unit,
}

impl Query {
    /// Instructions for frames of 64 bytes of one customer's one flow.
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

    /// With so many customers.
    pub fn customers(self, customers: u32) -> Self {
        Self { customers, ..self }
    }

    /// The same of another contender.
    pub fn of(self, contender: Contender) -> Self {
        Self { contender, ..self }
    }

    fn fits(&self, figure: &Figure) -> bool {
        let packets = matches!(self.unit, Unit::Instructions | Unit::Nanoseconds | Unit::Ratio);
        self.contender == figure.contender
            && self.workload == figure.workload
            && self.customers == figure.customers
            && self.unit == figure.unit
            // Where there are no packets, these say nothing.
            && (!packets
                || (self.frame_bytes == figure.frame_bytes
                    && self.flows == figure.flows
                    && (self.choice == figure.choice || self.flows == 1)
                    // Of one customer the first is the last.
                    && (self.place == figure.place || self.customers == 1)))
    }
}

/// What a figure answers.
impl From<&Figure> for Query {
    fn from(figure: &Figure) -> Self {
        let Figure { contender, workload, customers, place, flows, choice, frame_bytes, unit, .. } = *figure;
        Self { contender, workload, customers, place, flows, choice, frame_bytes, unit }
    }
}

impl Figures {
    /// Sorted, so that files differ only where figures do; of several of one measurement the last counts.
    pub fn new(figures: impl IntoIterator<Item = Figure>) -> Self {
        let mut all: Vec<Figure> = figures.into_iter().collect();
        all.reverse();
        all.sort_by_key(key);
        all.dedup_by_key(|figure| key(figure));
        Self(all)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Figure> {
        self.0.iter()
    }

    /// The figure asked for, if it was measured.
    pub fn find(&self, query: Query) -> Option<&Figure> {
        self.0.iter().find(|figure| query.fits(figure))
    }

    /// Its value.
    pub fn value(&self, query: Query) -> Option<f64> {
        self.find(query).map(|figure| figure.value)
    }

    /// What the gateway costs: the whole run less the same packets dropped at the first ingress hook, which
    /// no number of customers or flows changes.
    pub fn cost(&self, query: Query) -> Option<f64> {
        let whole = self.find(query)?;
        let mut drop = self.value(query.of(Contender::IngressDrop));
        for (customers, flows) in [(1, query.flows), (1, 1)] {
            let fewer = Query { customers, flows, ..query.of(Contender::IngressDrop) };
            drop = drop.or_else(|| self.value(fewer));
        }
        Some(whole.value - drop?)
    }

    /// What forwarding with no firewall costs, whatever the customers.
    pub fn floor(&self, query: Query) -> Option<f64> {
        let floor = query.of(Contender::Forwarding);
        self.cost(floor)
            .or_else(|| self.cost(floor.customers(1)))
            .or_else(|| self.cost(Query { flows: 1, ..floor.customers(1) }))
    }

    /// What it costs above the floor.
    pub fn tax(&self, query: Query) -> Option<f64> {
        Some(self.cost(query)? - self.floor(query)?)
    }

    /// The numbers of customers that anything was measured with, of those that `wanted` says.
    pub fn customers(&self, wanted: impl Fn(&Figure) -> bool) -> Vec<u32> {
        distinct(self.0.iter().filter(|figure| wanted(figure)).map(|figure| figure.customers))
    }

    /// The same of flows.
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

    /// A figure of an otherwise usual measurement.
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
    fn cost_is_without_generator_and_tax_without_forwarding() {
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
