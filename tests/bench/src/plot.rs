//! Plots, as SVG on a ground of their own, so that they are legible on pages of any colour.
use std::{ops::Range, path::Path};

use anyhow::{Result, anyhow};
use plotters::{
    coord::{
        Shift,
        ranged1d::{DefaultFormatting, KeyPointHint},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    figure::{Choice, Contender, Unit, Workload},
    figures::{Figures, Query},
    report::{self, CONTENDERS, number},
    target,
};

const SIZE: (u32, u32) = (900, 520);
/// Beside the plot, for the lines' names.
const NAMES_WIDTH: u32 = 225;
const NAME_HEIGHT: i32 = 17;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xe3, 0xe3, 0xe3);

/// A plot that was written.
pub struct Plot {
    /// Its file's name.
    pub file: &'static str,
    /// What it shows.
    pub title: &'static str,
}

/// One contender's points.
struct Series {
    contender: Contender,
    points: Vec<(f64, f64)>,
}

/// What is asked for of a contender at a place on the horizontal axis.
type Ask = fn(&Figures, Contender, u32) -> Option<f64>;

/// A plot of lines over numbers of something.
struct Lines {
    plot: Plot,
    horizontal: &'static str,
    vertical: &'static str,
    at: Vec<u32>,
    ask: Ask,
}

/// Writes the plots for which there are figures.
pub fn write(directory: &Path, figures: &Figures) -> Result<Vec<Plot>> {
    let established = |unit| {
        move |figure: &super::figure::Figure| figure.unit == unit && figure.workload == Workload::Established
    };
    let lines = [
        Lines {
            plot: Plot { file: "customers.svg", title: "Cost of an established packet by customers" },
            horizontal: "customers; packets are of the one added last",
            vertical: "instructions a packet",
            at: figures.customers(established(Unit::Instructions)),
            ask: |figures, contender, customers| {
                figures.cost(Query::new(contender, Workload::Established).customers(customers))
            },
        },
        Lines {
            plot: Plot { file: "flows.svg", title: "Cost of an established packet by flows" },
            horizontal: "open flows, chosen uniformly",
            vertical: "instructions a packet",
            at: figures.flows(established(Unit::Instructions)),
            ask: |figures, contender, flows| {
                figures.cost(Query {
                    flows,
                    choice: Choice::Uniform,
                    unit: Unit::Instructions,
                    ..Query::new(contender, Workload::Established)
                })
            },
        },
        Lines {
            plot: Plot { file: "load.svg", title: "Time to load all customers" },
            horizontal: "customers",
            vertical: "milliseconds",
            at: figures.customers(|figure| figure.workload == Workload::LoadAll),
            ask: |figures, contender, customers| {
                figures.value(target::control(contender, Workload::LoadAll, customers))
            },
        },
    ];
    let mut written = Vec::new();
    for lines in lines {
        let all = series(figures, &lines);
        if all.iter().any(|series| series.points.len() > 1) {
            draw_lines(&directory.join(lines.plot.file), &lines, &all)
                .map_err(|error| anyhow!("draw {}: {error}", lines.plot.file))?;
            written.push(lines.plot);
        }
    }
    let memory = Plot { file: "memory.svg", title: "Kernel memory for one flow" };
    let bars: Vec<(Contender, f64)> = [Contender::Redirect, Contender::Nftables]
        .into_iter()
        .filter_map(|contender| Some((contender, figures.value(target::memory(contender))?)))
        .collect();
    if !bars.is_empty() {
        draw_bars(&directory.join(memory.file), memory.title, &bars)
            .map_err(|error| anyhow!("draw {}: {error}", memory.file))?;
        written.push(memory);
    }
    Ok(written)
}

fn series(figures: &Figures, lines: &Lines) -> Vec<Series> {
    let of = |contender| {
        let point = |&at: &u32| Some((f64::from(at), (lines.ask)(figures, contender, at)?));
        Series { contender, points: lines.at.iter().filter_map(point).filter(|(_, y)| *y > 0.0).collect() }
    };
    let mut all: Vec<Series> = CONTENDERS.into_iter().map(of).collect();
    // No number of customers changes the floor.
    if let (Some(floor), Some(last)) =
        (all.iter_mut().find(|series| series.contender == Contender::Forwarding), lines.at.last())
        && let [(_, y)] = floor.points[..]
    {
        floor.points.push((f64::from(*last), y));
    }
    all.retain(|series| !series.points.is_empty());
    all
}

type Error = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_lines(path: &Path, lines: &Lines, all: &[Series]) -> Result<(), Error> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (area, names) = root.split_horizontally(SIZE.0 - NAMES_WIDTH);
    let points = || all.iter().flat_map(|series| series.points.iter().copied());
    let x = span(points().map(|point| point.0));
    let mut y = span(points().map(|point| point.1));
    if y.end / y.start > 1e3 {
        // So that the lowest mark is named.
        y.start = 10f64.powf(y.start.log10().floor());
    }
    let mut chart = ChartBuilder::on(&area)
        .caption(lines.plot.title, (FONT, 21).into_font().color(&INK))
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(78)
        .build_cartesian_2d(Decades(x), Decades(y))?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .axis_style(INK)
        .x_desc(lines.horizontal)
        .y_desc(lines.vertical)
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| number(*value))
        .label_style((FONT, 14).into_font().color(&INK))
        .axis_desc_style((FONT, 15).into_font().color(&INK))
        .draw()?;
    for series in all {
        let (colour, width) = style(series.contender);
        let stroke = ShapeStyle { color: colour.to_rgba(), filled: true, stroke_width: width };
        if series.contender == Contender::Forwarding {
            chart.draw_series(DashedLineSeries::new(series.points.iter().copied(), 6, 4, stroke))?;
        } else {
            chart.draw_series(LineSeries::new(series.points.iter().copied(), stroke))?;
            let dots = series.points.iter().map(|point| Circle::new(*point, width + 2, stroke));
            chart.draw_series(dots)?;
        }
    }
    let end = |series: &Series| Some((series.contender, chart.backend_coord(series.points.last()?).1));
    let ends = all.iter().filter_map(end).collect();
    draw_names(&names, ends)?;
    root.present()?;
    Ok(())
}

/// Names the lines beside their ends, from above to below.
fn draw_names(area: &Area<'_>, mut ends: Vec<(Contender, i32)>) -> Result<(), Error> {
    ends.sort_by_key(|(_, y)| *y);
    let wanted: Vec<i32> = ends.iter().map(|(_, y)| *y).collect();
    for ((contender, end), place) in ends.into_iter().zip(apart(&wanted, NAME_HEIGHT)) {
        let (colour, _) = style(contender);
        area.draw(&PathElement::new([(0, end), (14, place)], colour.mix(0.5).stroke_width(1)))?;
        let weight = if is_ours(contender) { FontStyle::Bold } else { FontStyle::Normal };
        let text = (FONT, 14, weight).into_font().color(&colour).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(name(contender), &text, (18, place))?;
    }
    Ok(())
}

/// Places at least so far apart, as close to the wanted ones, which are sorted, as may be: those that are
/// too close are spread around their middle.
fn apart(wanted: &[i32], distance: i32) -> Vec<i32> {
    // Of each block the first one's place, by each of its own wishes, summed up; and how many they are.
    let mut blocks: Vec<(i32, i32)> = Vec::new();
    for &place in wanted {
        blocks.push((place, 1));
        while let [.., (above, above_count), (sum, count)] = blocks[..]
            && above / above_count + above_count * distance > sum / count
        {
            blocks.truncate(blocks.len() - 2);
            blocks.push((above + sum - count * above_count * distance, above_count + count));
        }
    }
    blocks.iter().flat_map(|(sum, count)| (0..*count).map(move |i| sum / count + i * distance)).collect()
}

fn draw_bars(path: &Path, title: &str, bars: &[(Contender, f64)]) -> Result<(), Error> {
    const HEIGHT: u32 = 190;
    const LEFT: i32 = 150;
    const BAR: i32 = 34;
    let root = SVGBackend::new(path, (SIZE.0, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let text = |size: i32| (FONT, size).into_font().color(&INK);
    root.draw_text(title, &text(21), (14, 14))?;
    let most = bars.iter().map(|bar| bar.1).fold(f64::MIN_POSITIVE, f64::max);
    let width = f64::from(SIZE.0) - f64::from(LEFT) - 130.0;
    for (row, (contender, bytes)) in (0..).zip(bars) {
        let top = 62 + row * (BAR + 20);
        let name = if is_ours(*contender) { "this project" } else { "nf_conntrack" };
        let right = text(15).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw_text(name, &right, (LEFT - 10, top + BAR / 2))?;
        let end = LEFT + (width * bytes / most) as i32;
        root.draw(&Rectangle::new([(LEFT, top), (end, top + BAR)], style(*contender).0.filled()))?;
        let left = text(15).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw_text(&format!("{} bytes", number(*bytes)), &left, (end + 10, top + BAR / 2))?;
    }
    root.present()?;
    Ok(())
}

/// From the least to the most, with some room around; of one value, a decade.
fn span(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    if least == most { least / 3.0..most * 3.0 } else { least * 0.8..most * 1.25 }
}

/// A logarithmic axis with a mark at each power of ten, and between them where there are few.
struct Decades(Range<f64>);

impl Ranged for Decades {
    type ValueType = f64;
    type FormatOption = DefaultFormatting;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let (least, most) = (self.0.start.ln(), self.0.end.ln());
        from + (f64::from(to - from) * (value.ln() - least) / (most - least)).round() as i32
    }

    fn range(&self) -> Range<f64> {
        self.0.clone()
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        let (first, last) = (self.0.start.log10().floor() as i32, self.0.end.log10().ceil() as i32);
        let steps: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        (first..=last)
            .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
            .filter(|value| self.0.contains(value))
            .collect()
    }
}

fn is_ours(contender: Contender) -> bool {
    matches!(contender, Contender::Redirect | Contender::Stack)
}

fn name(contender: Contender) -> &'static str {
    match contender {
        Contender::Forwarding => "no firewall (the floor)",
        Contender::NftablesFlowtable => "nftables flowtable*",
        Contender::NftablesNetdevDrop => "nftables netdev drop",
        other => report::contender(other),
    }
}

/// Colour and width of the line. Colours that differ in lightness too (Okabe and Ito), ours the strongest.
fn style(contender: Contender) -> (RGBColor, u32) {
    match contender {
        Contender::Redirect => (RGBColor(0x00, 0x5a, 0xb5), 4),
        Contender::Stack => (RGBColor(0x2e, 0x9b, 0xe0), 3),
        Contender::Forwarding | Contender::CallsOnly | Contender::IngressDrop => {
            (RGBColor(0x66, 0x66, 0x66), 2)
        }
        Contender::Nftables => (RGBColor(0x00, 0x80, 0x5c), 2),
        Contender::NftablesTuned => (RGBColor(0x5a, 0xa8, 0x2e), 2),
        Contender::NftablesIntervals => (RGBColor(0x8c, 0x6d, 0x00), 2),
        Contender::NftablesFlowtable => (RGBColor(0x9b, 0x4d, 0xa8), 2),
        Contender::NftablesNetdevDrop => (RGBColor(0x55, 0x55, 0x99), 2),
        Contender::IptablesLegacy => (RGBColor(0xe0, 0x7b, 0x00), 2),
        Contender::IptablesNft => (RGBColor(0xc6, 0x28, 0x28), 2),
    }
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn names_are_apart_and_as_near_to_their_lines_as_may_be() {
        assert_eq!(apart(&[10, 100, 200], 17), [10, 100, 200]);
        assert_eq!(apart(&[100, 100, 100], 20), [80, 100, 120]);
        assert_eq!(apart(&[0, 95, 100, 105, 300], 20), [0, 80, 100, 120, 300]);
        assert!(apart(&[], 17).is_empty());
    }
}
