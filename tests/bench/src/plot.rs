//! Plots as SVG, on a white background so that they are legible on pages of any colour.
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
    contender::{Contender, Line},
    figure::{Figure, Unit},
    figures::{Figures, Query},
    number::number,
    tables, target,
    workload::{Choice, Workload},
};

const SIZE: (u32, u32) = (940, 520);
/// Width of the lines' names beside the plot. It fits the longest label in fonts wider than common ones.
const NAMES_WIDTH: u32 = 275;
const NAME_HEIGHT: i32 = 17;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xe3, 0xe3, 0xe3);

/// A written plot.
pub struct Plot {
    /// Its file's name.
    pub file: &'static str,
    /// Its title.
    pub title: &'static str,
}

/// One contender's points.
struct Series {
    contender: Contender,
    points: Vec<(f64, f64)>,
}

/// Returns a contender's value at a number on the horizontal axis.
type Ask = fn(&Figures, Contender, u32) -> Option<f64>;

/// A plot of lines over a number of customers or flows.
struct Lines {
    plot: Plot,
    horizontal: &'static str,
    vertical: &'static str,
    at: Vec<u32>,
    ask: Ask,
}

/// Writes the plots for which there are figures.
pub fn write(directory: &Path, figures: &Figures) -> Result<Vec<Plot>> {
    let mut written = Vec::new();
    for lines in line_plots(figures) {
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

fn line_plots(figures: &Figures) -> [Lines; 3] {
    let established =
        |figure: &Figure| figure.unit == Unit::Instructions && figure.workload == Workload::Established;
    [
        Lines {
            plot: Plot { file: "customers.svg", title: "Cost of an established packet by customers" },
            horizontal: "customers (packets belong to the one added last)",
            vertical: "instructions a packet",
            at: figures.customers(established),
            ask: |figures, contender, customers| {
                figures.cost(Query::new(contender, Workload::Established).customers(customers))
            },
        },
        Lines {
            plot: Plot { file: "flows.svg", title: "Cost of an established packet by flows" },
            horizontal: "open flows, chosen uniformly",
            vertical: "instructions a packet",
            at: figures.flows(established),
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
    ]
}

fn series(figures: &Figures, lines: &Lines) -> Vec<Series> {
    let of = |contender| {
        let point = |&at: &u32| Some((f64::from(at), (lines.ask)(figures, contender, at)?));
        Series { contender, points: lines.at.iter().filter_map(point).filter(|(_, y)| *y > 0.0).collect() }
    };
    let reported = Contender::ALL.iter().copied().filter(|contender| tables::is_reported(*contender));
    let mut all: Vec<Series> = reported.map(of).collect();
    // The floor is the same for any number of customers.
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
        // Start at a power of ten, so that the lowest mark gets a label.
        y.start = 10f64.powf(y.start.log10().floor());
    }
    let mut chart = ChartBuilder::on(&area)
        .caption(lines.plot.title, (FONT, 21).into_font().color(&INK))
        .margin(14)
        .margin_right(26)
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
        let (colour, width) = (colour(series.contender), series.contender.row().line.width);
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

/// Draws the lines' names beside their ends, from top to bottom.
fn draw_names(area: &Area<'_>, mut ends: Vec<(Contender, i32)>) -> Result<(), Error> {
    ends.sort_by_key(|(_, y)| *y);
    let wanted: Vec<i32> = ends.iter().map(|(_, y)| *y).collect();
    for ((contender, end), place) in ends.into_iter().zip(apart(&wanted, NAME_HEIGHT)) {
        let colour = colour(contender);
        area.draw(&PathElement::new([(0, end), (14, place)], colour.mix(0.5).stroke_width(1)))?;
        let weight = if contender.is_ours() { FontStyle::Bold } else { FontStyle::Normal };
        let text = (FONT, 14, weight).into_font().color(&colour).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(contender.label(), &text, (18, place))?;
    }
    Ok(())
}

/// Returns places at least `distance` apart and as close as possible to the sorted wanted ones. Places too
/// close to each other are spread around their middle.
fn apart(wanted: &[i32], distance: i32) -> Vec<i32> {
    // For each block: the sum of the first place as wanted by each member, and the number of members.
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
        let name = if contender.is_ours() { contender.label() } else { "nf_conntrack" };
        let right = text(15).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw_text(name, &right, (LEFT - 10, top + BAR / 2))?;
        let end = LEFT + (width * bytes / most) as i32;
        root.draw(&Rectangle::new([(LEFT, top), (end, top + BAR)], colour(*contender).filled()))?;
        let left = text(15).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw_text(&format!("{} bytes", number(*bytes)), &left, (end + 10, top + BAR / 2))?;
    }
    root.present()?;
    Ok(())
}

/// Returns the range of values with some margin; about a decade if there is only one value.
fn span(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    if least == most { least / 3.0..most * 3.0 } else { least * 0.8..most * 1.25 }
}

/// A logarithmic axis with a mark at each power of ten, and marks in between on a short axis.
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

fn colour(contender: Contender) -> RGBColor {
    let Line { colour: (red, green, blue), .. } = contender.row().line;
    RGBColor(red, green, blue)
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn names_keep_their_distance_and_stay_near_their_lines() {
        assert_eq!(apart(&[10, 100, 200], 17), [10, 100, 200]);
        assert_eq!(apart(&[100, 100, 100], 20), [80, 100, 120]);
        assert_eq!(apart(&[0, 95, 100, 105, 300], 20), [0, 80, 100, 120, 300]);
        assert!(apart(&[], 17).is_empty());
    }
}
