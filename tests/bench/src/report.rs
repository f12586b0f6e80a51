//! From figures to what people read: `README.md` with its tables, beside the plots.
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;

use super::{
    figure::{Choice, Contender, Figure, Place, Unit, Workload},
    figures::{Figures, Query},
    grid::Grid,
    plot,
    store::{Explanations, Origin, Part, Store},
    target::{self, Bound},
};

/// Rows of tables, in this order. A drop at ingress is in none: it is what all costs are without.
pub const CONTENDERS: [Contender; 11] = [
    Contender::Forwarding,
    Contender::CallsOnly,
    Contender::Redirect,
    Contender::Stack,
    Contender::Nftables,
    Contender::NftablesTuned,
    Contender::NftablesIntervals,
    Contender::NftablesFlowtable,
    Contender::NftablesNetdevDrop,
    Contender::IptablesLegacy,
    Contender::IptablesNft,
];

/// What to report.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// Where figures, tables and plots are
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// The part that was measured anew; without it only tables and plots are written again
    #[arg(long, requires_all = ["figures", "command", "kernel", "processor", "date", "commit"])]
    part: Option<Part>,
    /// Its figures, a line of JSON each
    #[arg(long, value_name = "FILE", requires = "part")]
    figures: Option<PathBuf>,
    #[command(flatten)]
    origin: Option<Origin>,
}

/// Puts new figures in the place of old ones, if there are any, and writes tables and plots.
pub fn run(choices: &Choices) -> Result<()> {
    let Choices { directory, part, figures, origin } = choices;
    if let (Some(part), Some(path), Some(origin)) = (part, figures, origin) {
        let mut store = Store::read(directory)?;
        store.replace(*part, origin.clone(), read(path)?)?;
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        store.write(directory)?;
    }
    write(directory)
}

/// Reads a file of figures.
pub fn read(path: &Path) -> Result<Vec<Figure>> {
    let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    Figure::read_all(BufReader::new(file))
}

/// Writes everything that follows from the figures in a directory.
pub fn write(directory: &Path) -> Result<()> {
    let store = Store::read(directory)?;
    let figures = store.figures();
    let plots = plot::write(directory, &figures)?;
    let text = text(&store, &figures, &Explanations::read(directory)?, &plots);
    let path = directory.join("README.md");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn text(store: &Store, figures: &Figures, explanations: &Explanations, plots: &[plot::Plot]) -> String {
    let mut text = String::from(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench`; only `explanations.toml` is by hand. Every figure is in \
         `figures.json`.\n\n\
         **Cost** of a gateway: the whole run less the same packets dropped at the gateway's first ingress \
         hook, so that generator and sink count for nobody. **Floor**: that of forwarding with no firewall \
         and no netfilter table. **Tax**: cost above the floor. Unless it says something else, frames have 64 \
         bytes and are of the customer added last.\n\n",
    );
    text += &origins(store);
    text += "\n## Targets\n\n";
    text += &targets(figures, explanations);
    for plot in plots {
        _ = write!(text, "\n![{}]({})\n", plot.title, plot.file);
    }
    for section in [instructions(figures), times(figures), controls(figures), memories(figures)] {
        text += &section;
    }
    text
}

fn origins(store: &Store) -> String {
    let mut table = Grid::new(["part", "command", "kernel", "processor", "date", "commit"], 0..0);
    for (part, measured) in &store.0 {
        let origin = &measured.origin;
        let command = format!("`{}`", origin.command);
        let part = self::part(*part);
        table.add([part, &command, &origin.kernel, &origin.processor, &origin.date, &origin.commit]);
    }
    table.to_string()
}

/// Target by target: what it is, what was measured, whether it is met, and if it is not, why.
fn targets(figures: &Figures, explanations: &Explanations) -> String {
    let mut table = Grid::new(["what", "number", "target", "measured", "", "explanation"], 2..4);
    for target in target::ALL {
        let measured = (target.measure)(figures);
        let explanation = explanations.of(target.name).unwrap_or_default();
        let met = match (measured, target.bound) {
            (None, _) => "not measured",
            (Some(_), Bound::Reported) => "reported",
            (Some(number), bound) if bound.is_met(number) => "**met**",
            _ => "not met",
        };
        table.add([
            target.what,
            target.formula,
            &bound(target.bound),
            &measured.map_or_else(|| "–".to_owned(), number),
            met,
            &explanation.replace('\n', " "),
        ]);
    }
    table.to_string()
}

fn bound(bound: Bound) -> String {
    match bound {
        Bound::AtMost(bound) => format!("≤ {}", number(bound)),
        Bound::AtLeast(bound) => format!("≥ {}", number(bound)),
        Bound::Above(bound) => format!("> {}", number(bound)),
        Bound::Reported => "reported".to_owned(),
    }
}

fn instructions(figures: &Figures) -> String {
    let established = |figure: &Figure| {
        figure.unit == Unit::Instructions && figure.workload == Workload::Established && figure.flows == 1
    };
    let query = |contender| Query::new(contender, Workload::Established);
    let by_customers: Vec<Column> = figures
        .customers(established)
        .into_iter()
        .map(|customers| Column::new(number(f64::from(customers)), move |c| query(c).customers(customers)))
        .collect();
    let by_place: Vec<Column> = figures
        .customers(|figure| established(figure) && figure.place != Place::Last && figure.customers > 1)
        .into_iter()
        .flat_map(|customers| {
            [(Place::First, "first"), (Place::Middle, "middle"), (Place::Last, "last")].map(
                |(place, name)| {
                    Column::new(format!("{name} of {}", number(f64::from(customers))), move |c| Query {
                        place,
                        ..query(c).customers(customers)
                    })
                },
            )
        })
        .collect();
    let by_workload: Vec<Column> = Workload::PACKETS
        .map(|kind| Column::new(workload(kind), move |contender| Query::new(contender, kind)))
        .into();
    let by_size: Vec<Column> = [64, 1400]
        .map(|frame_bytes| {
            Column::new(format!("{frame_bytes} bytes"), move |c| Query { frame_bytes, ..query(c) })
        })
        .into();
    let mut text = String::new();
    for (title, columns, cell) in [
        ("Instructions for an established packet, LAN to server: cost, by customers", &by_customers, COST),
        ("The same: tax", &by_customers, TAX),
        ("The same by the customer's place: cost", &by_place, COST),
        (
            "Instructions by workload, 1 customer: cost of a packet, or of a whole connection",
            &by_workload,
            COST,
        ),
        ("Instructions for an established packet by size, 1 customer: cost", &by_size, COST),
    ] {
        text += &matrix(title, figures, columns, cell);
    }
    text + &esp(figures)
}

fn times(figures: &Figures) -> String {
    let mut text = String::new();
    for (choice, name) in [(Choice::Uniform, "uniform"), (Choice::Zipf, "Zipf")] {
        let chosen = |figure: &Figure| {
            figure.workload == Workload::Established && (figure.choice == choice || figure.flows == 1)
        };
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
        let many = |figure: &Figure| chosen(figure) && figure.flows > 1;
        if !figures.iter().any(many) {
            continue;
        }
        let title = format!("Nanoseconds for an established packet by flows ({name}), 1 customer: cost");
        text += &matrix(&title, figures, &columns(Unit::Nanoseconds), COST);
        let title = format!(
            "The same: whole run ÷ that of the floor in adjacent blocks ({name}), with 95 % confidence"
        );
        text += &matrix(&title, figures, &columns(Unit::Ratio), INTERVAL);
    }
    let timed = |figure: &Figure| {
        figure.unit == Unit::Nanoseconds && figure.workload == Workload::Established && figure.flows == 1
    };
    let by_customers: Vec<Column> = figures
        .customers(timed)
        .into_iter()
        .map(|customers| {
            Column::new(number(f64::from(customers)), move |contender| Query {
                unit: Unit::Nanoseconds,
                ..Query::new(contender, Workload::Established).customers(customers)
            })
        })
        .collect();
    text += &matrix("Nanoseconds for an established packet by customers: cost", figures, &by_customers, COST);
    let by_workload: Vec<Column> = Workload::PACKETS
        .map(|kind| {
            Column::new(workload(kind), move |c| Query { unit: Unit::Nanoseconds, ..Query::new(c, kind) })
        })
        .into();
    text += &matrix("Nanoseconds by workload, 1 customer: cost", figures, &by_workload, COST);
    let mut table = Grid::new(["control", "ratio", "95 % confidence"], 1..3);
    for figure in figures.iter() {
        if matches!(figure.workload, Workload::ControlAA | Workload::Control50Ns)
            && figure.unit == Unit::Ratio
        {
            table.add([
                format!("{}, {}", contender(figure.contender), workload(figure.workload)),
                format!("{:.3}", figure.value),
                format!("{:.3} to {:.3}", figure.low, figure.high),
            ]);
        }
    }
    if !table.is_empty() {
        _ = write!(text, "\n### What the measurement of time is worth\n\n{table}");
    }
    text
}

fn controls(figures: &Figures) -> String {
    let mut text = String::new();
    for (workload, title) in [
        (Workload::LoadAll, "Milliseconds to load all customers"),
        (Workload::ChangeOne, "Milliseconds for one customer more"),
    ] {
        let columns: Vec<Column> = figures
            .customers(|figure| figure.workload == workload)
            .into_iter()
            .map(|customers| {
                let query = move |contender| target::control(contender, workload, customers);
                Column::new(number(f64::from(customers)), query)
            })
            .collect();
        text += &matrix(&format!("{title}, by customers"), figures, &columns, VALUE);
    }
    text
}

fn memories(figures: &Figures) -> String {
    let columns = [
        Column::new("a flow", target::memory),
        Column::new("a customer", |contender| Query {
            workload: Workload::MemoryPerCustomer,
            ..target::memory(contender)
        }),
    ];
    let note = "nf_conntrack is the same for all rulesets that use it; it stands in the row of nftables.\n";
    match matrix("Bytes of kernel memory", figures, &columns, VALUE) {
        table if table.is_empty() => table,
        table => format!("{table}\n{note}"),
    }
}

/// What instructions cost there, and how many segments come together.
fn esp(figures: &Figures) -> String {
    let kinds =
        [Workload::Decapsulation, Workload::FirewallAndForwarding, Workload::BulkGro, Workload::BulkNoGro];
    let mut columns = Vec::new();
    for kind in kinds {
        for (asked, text) in
            [(Unit::Instructions, "instructions a segment"), (Unit::Segments, "segments a packet")]
        {
            let any = figures.iter().find(|figure| figure.workload == kind && figure.unit == asked);
            if let Some(query) = any.map(Query::from) {
                let title = format!("{}: {text}", workload(kind));
                columns.push(Column::new(title, move |contender| query.of(contender)));
            }
        }
    }
    let cell: Cell = |figures, query| match query.unit {
        Unit::Instructions => figures.cost(query).map(number),
        _ => figures.value(query).map(number),
    };
    matrix("The whole path with real ESP: cost", figures, &columns, cell)
}

/// One column of a table.
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

/// A table of contenders, with a heading; empty if nothing of it was measured. Contenders and columns
/// without a figure are left out.
fn matrix(title: &str, figures: &Figures, columns: &[Column], cell: Cell) -> String {
    let rows: Vec<(Contender, Vec<Option<String>>)> = CONTENDERS
        .iter()
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
        let cells = used.iter().map(|&column| cells[column].clone().unwrap_or_else(|| "–".to_owned()));
        table.add(std::iter::once(self::contender(*contender).to_owned()).chain(cells));
    }
    format!("\n### {title}\n\n{table}")
}

/// A number with three digits that count, thousands apart.
pub fn number(number: f64) -> String {
    let decimals = match number.abs() {
        0.0 => 0,
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |text| ("−", text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let mut grouped = String::from(sign);
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

fn part(part: Part) -> &'static str {
    match part {
        Part::Instructions => "instructions",
        Part::Time => "time",
        Part::Control => "control",
        Part::Memory => "memory",
    }
}

/// A contender's name for people.
pub fn contender(contender: Contender) -> &'static str {
    match contender {
        Contender::IngressDrop => "drop at ingress",
        Contender::Forwarding => "forwarding, no firewall",
        Contender::CallsOnly => "the least: two hooks, clock, flow, lock",
        Contender::IptablesNft => "iptables-nft",
        Contender::IptablesLegacy => "iptables-legacy",
        Contender::Nftables => "nftables",
        Contender::NftablesIntervals => "nftables, interval sets",
        Contender::NftablesTuned => "nftables, tuned buckets",
        Contender::NftablesFlowtable => "nftables flowtable (not policy-equivalent)",
        Contender::NftablesNetdevDrop => "nftables netdev drop (forwards nothing)",
        Contender::Stack => "this project, to the stack",
        Contender::Redirect => "this project",
    }
}

/// A workload's name for people.
pub fn workload(workload: Workload) -> &'static str {
    match workload {
        Workload::Established => "established",
        Workload::Reply => "reply",
        Workload::NewConnection => "new connection",
        Workload::DeniedSyn => "denied SYN",
        Workload::FloodOfNewTuples => "flood of new tuples",
        Workload::Mixed => "mixed",
        Workload::BulkGro => "bulk upload, GRO on",
        Workload::BulkNoGro => "bulk upload, GRO off",
        Workload::Decapsulation => "decapsulation",
        Workload::FirewallAndForwarding => "firewall and forwarding",
        Workload::LoadAll => "load all",
        Workload::ChangeOne => "change one",
        Workload::MemoryPerFlow => "memory for a flow",
        Workload::MemoryPerCustomer => "memory for a customer",
        Workload::ControlAA => "against itself",
        Workload::Control50Ns => "against itself with 50 ns more",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::figures::tests::figure, *};

    #[test]
    fn numbers_are_short_and_readable() {
        let all = [0.0, 0.0491, 0.65, 1.005, 3.5, 34.12, 3052.4, -438.0, 738_371.0, 1_000_000.0];
        let texts = all.map(number);
        assert_eq!(
            texts,
            ["0", "0.049", "0.65", "1", "3.5", "34.1", "3,052", "−438", "738,371", "1,000,000"]
        );
    }

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
            !text.contains("nftables")
                && !text.contains("by size, 1 customer: cost\n\n| contender | 64 bytes | 1400")
        );
        assert!(times(&figures).is_empty() && controls(&figures).is_empty() && memories(&figures).is_empty());
    }
}
