//! The tables of figures in the report: instructions, time, control and memory, contender by contender.
use std::fmt::Write as _;

use super::{
    contender::Contender,
    figure::{Figure, Unit},
    figures::{Figures, Query},
    grid::Grid,
    number::number,
    target,
    workload::{Choice, Place, Workload},
};

/// Returns the tables of instructions.
pub fn instructions(figures: &Figures) -> String {
    let established = |figure: &Figure| {
        figure.unit == Unit::Instructions && figure.workload == Workload::Established && figure.flows == 1
    };
    let query = |contender| Query::new(contender, Workload::Established);
    let by_customers: Vec<Column> = figures
        .customers(established)
        .into_iter()
        .map(|customers| Column::new(number(f64::from(customers)), move |c| query(c).customers(customers)))
        .collect();
    let by_workload: Vec<Column> = Workload::PACKETS
        .map(|kind| Column::new(kind.label(), move |contender| Query::new(contender, kind)))
        .into();
    let by_size: Vec<Column> = [64, 1400]
        .map(|frame_bytes| {
            Column::new(format!("{frame_bytes} bytes"), move |c| Query { frame_bytes, ..query(c) })
        })
        .into();
    let placed = figures
        .customers(|figure| established(figure) && figure.place != Place::Last && figure.customers > 1);
    let tables = [
        matrix("Cost of an established packet, LAN to server, by customers", figures, &by_customers, COST),
        matrix("Tax on an established packet, LAN to server, by customers", figures, &by_customers, TAX),
        by_place("Cost of an established packet by the customer's place", figures, &placed),
        matrix("Cost of a packet, or of a whole connection, by workload", figures, &by_workload, COST),
        matrix("Cost of an established packet by frame size", figures, &by_size, COST),
    ];
    tables.concat() + &esp(figures)
}

/// Returns the tables of time.
pub fn times(figures: &Figures) -> String {
    let mut text = String::new();
    for (choice, name) in [(Choice::Uniform, "uniform"), (Choice::Zipf, "Zipf")] {
        text += &times_by_flows(figures, choice, name);
    }
    let timed = |figure: &Figure| {
        figure.unit == Unit::Nanoseconds && figure.workload == Workload::Established && figure.flows == 1
    };
    let query = |contender, workload| Query { unit: Unit::Nanoseconds, ..Query::new(contender, workload) };
    let by_customers: Vec<Column> = figures
        .customers(timed)
        .into_iter()
        .map(|customers| {
            Column::new(number(f64::from(customers)), move |contender| {
                query(contender, Workload::Established).customers(customers)
            })
        })
        .collect();
    text += &matrix("Cost of an established packet by customers", figures, &by_customers, COST);
    let by_workload: Vec<Column> =
        Workload::PACKETS.map(|kind| Column::new(kind.label(), move |c| query(c, kind))).into();
    text += &matrix("Cost of a packet, or of a whole connection, by workload", figures, &by_workload, COST);
    text + &time_controls(figures)
}

fn times_by_flows(figures: &Figures, choice: Choice, name: &str) -> String {
    let chosen = |figure: &Figure| {
        figure.workload == Workload::Established && (figure.choice == choice || figure.flows == 1)
    };
    if !figures.iter().any(|figure| chosen(figure) && figure.flows > 1) {
        return String::new();
    }
    let columns = |unit| -> Vec<Column> {
        figures
            .flows(|figure| chosen(figure) && figure.unit == unit)
            .into_iter()
            .map(|flows| {
                Column::new(number(f64::from(flows)), move |contender| Query {
                    flows,
                    choice,
                    unit,
                    ..Query::new(contender, Workload::Established)
                })
            })
            .collect()
    };
    let cost = format!("Cost of an established packet by flows ({name})");
    let ratio = format!("Whole run ÷ adjacent run of the floor, by flows ({name}), with 95 % confidence");
    matrix(&cost, figures, &columns(Unit::Nanoseconds), COST)
        + &matrix(&ratio, figures, &columns(Unit::Ratio), INTERVAL)
}

fn time_controls(figures: &Figures) -> String {
    let mut table = Grid::new(["control", "ratio", "95 % confidence"], 1..3);
    for figure in figures.iter() {
        if matches!(figure.workload, Workload::ControlAA | Workload::Control50Ns)
            && figure.unit == Unit::Ratio
        {
            table.add([
                format!("{} {}", figure.contender.label(), figure.workload.label()),
                format!("{:.3}", figure.value),
                format!("{:.3} to {:.3}", figure.low, figure.high),
            ]);
        }
    }
    if table.is_empty() { String::new() } else { section("Accuracy of the measurement", &table) }
}

/// Returns the tables of loading and changing customers.
pub fn controls(figures: &Figures) -> String {
    let mut text = String::new();
    for (workload, title) in [
        (Workload::LoadAll, "Milliseconds to load all customers, by customers"),
        (Workload::ChangeOne, "Milliseconds to add one customer, by customers"),
    ] {
        let columns: Vec<Column> = figures
            .customers(|figure| figure.workload == workload)
            .into_iter()
            .map(|customers| {
                let query = move |contender| target::control(contender, workload, customers);
                Column::new(number(f64::from(customers)), query)
            })
            .collect();
        text += &matrix(title, figures, &columns, VALUE);
    }
    text
}

/// Returns the table of memory.
pub fn memories(figures: &Figures) -> String {
    let columns = [
        Column::new("a flow", target::memory),
        Column::new("a customer", |contender| Query {
            workload: Workload::MemoryPerCustomer,
            ..target::memory(contender)
        }),
    ];
    let note =
        "All rulesets share nf_conntrack, so its memory of a flow is shown in the row of nftables only.\n";
    match matrix("Bytes of kernel memory", figures, &columns, VALUE) {
        table if table.is_empty() => table,
        table => format!("{table}\n{note}"),
    }
}

/// Returns the table of what IKE and gatewayd take with many tunnels.
pub fn tunnels(figures: &Figures) -> String {
    let customers = figures.customers(|figure| Workload::TUNNELS.contains(&figure.workload));
    let titles = customers.iter().map(|customers| number(f64::from(*customers)));
    let head = ["subject".to_owned(), "unit".to_owned()].into_iter().chain(titles);
    let mut table = Grid::new(head, 2..customers.len() + 2);
    for workload in Workload::TUNNELS {
        let Some(unit) = figures.iter().find(|figure| figure.workload == workload).map(|figure| figure.unit)
        else {
            continue;
        };
        let query =
            |customers| Query { unit, ..Query::new(Contender::Redirect, workload).customers(customers) };
        let cells = customers.iter().map(|customers| or_dash(VALUE(figures, query(*customers))));
        table.add([workload.label().to_owned(), unit.label().to_owned()].into_iter().chain(cells));
    }
    if table.is_empty() {
        return String::new();
    }
    let note = "Real charons at both ends, all sites in one, on the same machine; ESP in user space \
                (kernel-libipsec), whose lists of SAs and policies count in charon's times. Times at charon are CPU \
                time.\n";
    format!("{}\n{note}", section("By customers; each has a tunnel in the column of events", &table))
}

/// Returns the tables of the path through real ESP: instructions, and merged segments.
fn esp(figures: &Figures) -> String {
    let kinds =
        [Workload::Decapsulation, Workload::FirewallAndForwarding, Workload::BulkGro, Workload::BulkNoGro];
    let columns = |unit| -> Vec<Column> {
        let any = |kind| figures.iter().find(|figure| figure.workload == kind && figure.unit == unit);
        kinds
            .into_iter()
            .filter_map(|kind| {
                let query = Query::from(any(kind)?);
                Some(Column::new(kind.label(), move |contender| query.of(contender)))
            })
            .collect()
    };
    matrix("Cost of a segment through real ESP", figures, &columns(Unit::Instructions), COST)
        + &matrix("Segments merged into a packet through real ESP", figures, &columns(Unit::Segments), VALUE)
}

/// Returns the table of established packets by customers, with rows for the first, middle and last customer.
fn by_place(title: &str, figures: &Figures, customers: &[u32]) -> String {
    let titles = customers.iter().map(|customers| number(f64::from(*customers)));
    let head = ["contender".to_owned(), "customer".to_owned()].into_iter().chain(titles);
    let mut table = Grid::new(head, 2..customers.len() + 2);
    for &contender in Contender::ALL.iter().filter(|contender| is_reported(**contender)) {
        for (place, name) in [(Place::First, "first"), (Place::Middle, "middle"), (Place::Last, "last")] {
            let query = |customers| Query {
                place,
                ..Query::new(contender, Workload::Established).customers(customers)
            };
            let cells: Vec<_> = customers.iter().map(|customers| COST(figures, query(*customers))).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(or_dash);
                table.add([contender.label().to_owned(), name.to_owned()].into_iter().chain(cells));
            }
        }
    }
    if table.is_empty() { String::new() } else { section(title, &table) }
}

/// A column of a table.
struct Column {
    title: String,
    query: Box<dyn Fn(Contender) -> Query>,
}

impl Column {
    fn new(title: impl Into<String>, query: impl Fn(Contender) -> Query + 'static) -> Self {
        Self { title: title.into(), query: Box::new(query) }
    }
}

type Cell = fn(&Figures, Query) -> Option<String>;

const COST: Cell = |figures, query| figures.cost(query).map(number);
const TAX: Cell = |figures, query| figures.tax(query).map(number);
const VALUE: Cell = |figures, query| figures.value(query).map(number);
const INTERVAL: Cell = |figures, query| {
    let Figure { value, low, high, .. } = figures.find(query)?;
    Some(format!("{value:.3} ({low:.3}–{high:.3})"))
};

/// Returns true if tables and plots show a contender. They omit the drop at ingress, which is subtracted from
/// the costs of all others.
pub fn is_reported(contender: Contender) -> bool {
    contender != Contender::IngressDrop
}

/// Returns a table of contenders with a heading, or nothing without figures. Omits contenders and columns
/// without a figure.
fn matrix(title: &str, figures: &Figures, columns: &[Column], cell: Cell) -> String {
    let rows: Vec<(Contender, Vec<Option<String>>)> = Contender::ALL
        .iter()
        .filter(|contender| is_reported(**contender))
        .map(|contender| {
            (*contender, columns.iter().map(|column| cell(figures, (column.query)(*contender))).collect())
        })
        .filter(|(_, cells): &(_, Vec<_>)| cells.iter().any(Option::is_some))
        .collect();
    let used: Vec<usize> =
        (0..columns.len()).filter(|&column| rows.iter().any(|(_, cells)| cells[column].is_some())).collect();
    if used.is_empty() {
        return String::new();
    }
    let titles = used.iter().map(|&column| columns[column].title.clone());
    let mut table = Grid::new(std::iter::once("contender".to_owned()).chain(titles), 1..used.len() + 1);
    for (contender, cells) in &rows {
        let cells = used.iter().map(|&column| or_dash(cells[column].clone()));
        table.add(std::iter::once(contender.label().to_owned()).chain(cells));
    }
    section(title, &table)
}

fn or_dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "–".to_owned())
}

fn section(title: &str, table: &Grid) -> String {
    let mut text = String::new();
    _ = write!(text, "\n### {title}\n\n{table}");
    text
}

#[cfg(test)]
mod tests {
    use super::{super::figures::tests::figure, *};

    #[test]
    fn tables_leave_out_what_was_not_measured() {
        let of = |contender, customers, value| {
            figure(contender, Workload::Established, customers, Unit::Instructions, value)
        };
        let figures = Figures::new([
            of(Contender::IngressDrop, 1, 5871.0),
            of(Contender::Forwarding, 1, 8923.0),
            of(Contender::IptablesNft, 1000, 750_000.0),
        ]);
        let text = instructions(&figures);
        assert!(
            text.contains("by customers") && text.contains("3,052") && text.contains("744,129"),
            "{text}"
        );
        assert!(
            !text.contains("nftables") && !text.contains("by frame size\n\n| contender   | 64 bytes | 1400"),
            "{text}"
        );
        assert!(times(&figures).is_empty() && controls(&figures).is_empty() && memories(&figures).is_empty());
    }
}
