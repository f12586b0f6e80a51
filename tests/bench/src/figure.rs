//! One measured figure, printed by the measuring commands and read by the report as a line of JSON.
use std::io::{self, BufRead, Write};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{
    case::Case,
    contender::Contender,
    workload::{Choice, Place, Workload},
};

/// A figure and the conditions it was measured under. Instructions and times are raw values of the whole run,
/// for each packet or connection; the report subtracts the cost of a drop at the first ingress hook.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Figure {
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
    /// Size of a frame in bytes, Ethernet header included; 0 if the workload has no frames.
    pub frame_bytes: u32,
    /// Unit of `value`, `low` and `high`.
    pub unit: Unit,
    /// Median of the rounds.
    pub value: f64,
    /// Minimum of the rounds; for times, the lower end of the 95 % confidence interval.
    pub low: f64,
    /// Maximum of the rounds; for times, the upper end of the 95 % confidence interval.
    pub high: f64,
    /// Number of rounds.
    pub rounds: u32,
}

/// Summary of the rounds of one measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The median.
    pub value: f64,
    /// See [`Figure::low`].
    pub low: f64,
    /// See [`Figure::high`].
    pub high: f64,
    /// Number of rounds.
    pub rounds: u32,
}

/// Units of figures.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Instructions for a packet or connection.
    Instructions,
    /// Nanoseconds for a packet or connection.
    Nanoseconds,
    /// Time divided by the floor's time in the adjacent block.
    Ratio,
    /// Bytes.
    Bytes,
    /// Segments merged into one packet.
    Segments,
    /// Milliseconds.
    Milliseconds,
}

impl Unit {
    /// Returns the unit's name in tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Nanoseconds => "ns",
            Self::Ratio => "ratio",
            Self::Bytes => "bytes",
            Self::Segments => "segments",
            Self::Milliseconds => "ms",
        }
    }
}

impl Figure {
    /// Builds the figure of a case with packets.
    pub fn of_case(case: &Case, contender: Contender, unit: Unit, measured: Measured) -> Self {
        let Case { customers, flows, place, workload, choice, frame_bytes } = *case;
        let Measured { value, low, high, rounds } = measured;
        Self {
            contender,
            workload,
            customers,
            place,
            flows,
            choice,
            frame_bytes,
            unit,
            value,
            low,
            high,
            rounds,
        }
    }

    /// Builds the figure of a workload without packets.
    pub fn without_packets(
        contender: Contender,
        workload: Workload,
        customers: u32,
        unit: Unit,
        measured: Measured,
    ) -> Self {
        let case = Case { flows: 0, frame_bytes: 0, ..Case::usual(workload, customers) };
        Self::of_case(&case, contender, unit, measured)
    }

    /// Prints the figure as JSON to stdout, and for people to stderr.
    pub fn report(&self) -> Result<()> {
        let Self { contender, workload, customers, place, flows, choice, frame_bytes, unit, .. } = *self;
        let digits = match unit {
            Unit::Ratio | Unit::Milliseconds => 3,
            Unit::Instructions | Unit::Nanoseconds | Unit::Bytes | Unit::Segments => 0,
        };
        let conditions = if frame_bytes == 0 {
            format!("{customers} customers")
        } else {
            format!("{frame_bytes} bytes, {customers} customers ({place:?}), {flows} flows ({choice:?})")
        };
        eprintln!(
            "{contender}: {:.digits$} ({:.digits$} to {:.digits$}) {unit:?}, {workload:?}, {conditions}",
            self.value, self.low, self.high
        );
        self.write(&mut io::stdout().lock())
    }

    /// Writes the figure as a line of JSON.
    pub fn write(&self, output: &mut impl Write) -> Result<()> {
        let line = serde_json::to_string(self).context("write a figure as JSON")?;
        writeln!(output, "{line}").context("write a figure")
    }

    /// Reads all figures in an output. Skips lines that do not begin with a brace.
    pub fn read_all(input: impl BufRead) -> Result<Vec<Self>> {
        let lines: Vec<String> = input.lines().collect::<io::Result<_>>().context("read figures")?;
        lines
            .iter()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a figure: {line}")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_survives_being_written_among_other_lines() {
        let figure = Figure {
            contender: Contender::NftablesNetdevDrop,
            workload: Workload::Control50Ns,
            customers: 100_000,
            place: Place::Middle,
            flows: 64_000,
            choice: Choice::Zipf,
            frame_bytes: 64,
            unit: Unit::Instructions,
            value: 897.5,
            low: 896.0,
            high: 898.25,
            rounds: 5,
        };
        let mut output = b"booting\n".to_vec();
        figure.write(&mut output).unwrap();
        let text = String::from_utf8(output.clone()).unwrap();
        assert!(text.contains(r#""contender":"nftables-netdev-drop","workload":"control-50-ns""#), "{text}");
        assert_eq!(Figure::read_all(&output[..]).unwrap(), [figure]);
        assert!(Figure::read_all(&b"{\"contender\":\"unheard-of\"}\n"[..]).is_err());
    }
}
