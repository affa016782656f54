//! The plot beside the page: a row a workload, a dot a profiler, its place the ratio of wall times, on a logarithmic scale.

use std::path::Path;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::plan::{AGAIN, Group, Variant, Work};
use crate::results::{Results, wall};

type Failure = Box<dyn std::error::Error>;

/// Colours that stay apart for most of those who don't see all colours (Okabe and Ito's), unfreed's the strongest.
const COLOURS: [RGBColor; 8] = [
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(130, 130, 130),
];

/// Writes the plot as SVG.
pub fn draw(path: &Path, results: &Results, works: &[Work], title: &str) -> Result<(), Failure> {
    let height = 210 + 30 * u32::try_from(works.len())?;
    let area = SVGBackend::new(path, (1240, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(title, ("sans-serif", 20))?;
    let (left, right) = area.split_horizontally(640);
    panel(&left, results, works, Group::Sampled, "sampling: wall time over no profiler's (same allocator)")?;
    panel(&right, results, works, Group::Exact, "exact: wall time over no profiler's")?;
    area.present()?;
    Ok(())
}

fn panel<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    results: &Results,
    works: &[Work],
    group: Group,
    title: &str,
) -> Result<(), Failure>
where
    B::ErrorType: 'static,
{
    let mut variants: Vec<Variant> = Vec::new();
    for variant in works.iter().flat_map(|work| group.variants(work)).filter(|v| !v.is_base() && v.frames == 0) {
        if variant.name != AGAIN && !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    // unfreed's before the others'
    variants.sort_by_key(|variant| !variant.name.starts_with("unfreed"));
    let ratio = |variant: &Variant, work: &Work| results.ratio(group, work, variant.name, variant.base, wall);
    let all: Vec<f64> = works
        .iter()
        .flat_map(|work| variants.iter().filter_map(move |variant| ratio(variant, work)))
        .map(|m| m.median)
        .collect();
    let low = all.iter().copied().fold(0.9_f64, f64::min) * 0.95;
    let high = all.iter().copied().fold(1.3_f64, f64::max) * 1.15;
    let rows = works.len() as f64;
    let (area, below) = area.split_vertically(area.dim_in_pixel().1 - 80);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(90)
        .build_cartesian_2d((low..high).log_scale(), 0.0..rows)?;
    let place = |row: usize| rows - row as f64 - 0.5;
    let name = |y: &f64| {
        let row = rows - y - 0.5;
        let near = (row - row.round()).abs() < 0.01 && row > -0.5;
        let work = near.then(|| works.get(row.round() as usize)).flatten();
        work.map_or_else(String::new, Work::label)
    };
    chart
        .configure_mesh()
        .disable_mesh()
        .disable_y_axis()
        .x_labels(0)
        .y_labels(0)
        .x_label_formatter(&|_| String::new())
        .draw()?;
    lines(&mut chart, works.len(), low, high)?;
    for x in ticks(low, high) {
        let at = chart.backend_coord(&(x, 0.0));
        let origin = area.get_base_pixel();
        let style = TextStyle::from(("sans-serif", 13).into_font());
        let style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Top,
        ));
        area.draw(&Text::new(format!("{x}\u{d7}"), (at.0 - origin.0, at.1 - origin.1 + 8), style))?;
    }
    for row in 0..works.len() {
        let y = place(row);
        let at = chart.backend_coord(&(low, y));
        let origin = area.get_base_pixel();
        let style = TextStyle::from(("sans-serif", 13).into_font());
        let style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Right,
            plotters::style::text_anchor::VPos::Center,
        ));
        area.draw(&Text::new(name(&y), (at.0 - origin.0 - 8, at.1 - origin.1), style))?;
    }
    for (n, variant) in variants.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let filled = variant.name.starts_with("unfreed");
        let style = if filled { colour.filled() } else { colour.stroke_width(2) };
        let dots = works.iter().enumerate().filter_map(|(row, work)| Some((ratio(variant, work)?.median, place(row))));
        // profilers are many: a circle of their own each, unfreed's filled
        let size = if n >= COLOURS.len() { 6 } else { 4 };
        chart.draw_series(dots.map(|dot| Circle::new(dot, size, style)))?;
        // the legend, three in a row below the chart
        let (column, line) = (i32::try_from(n % 3)?, i32::try_from(n / 3)?);
        let (x, y) = (60 + column * 185, 8 + line * 18);
        below.draw(&Circle::new((x, y), size, style))?;
        below.draw(&Text::new(variant.name, (x + 12, y - 6), ("sans-serif", 13)))?;
    }
    Ok(())
}

/// Ratios that have a line and a label: where all lie close together, more of them.
fn ticks(low: f64, high: f64) -> impl Iterator<Item = f64> {
    const MANY: [f64; 7] = [0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0];
    const FEW: [f64; 12] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];
    let all = if high / low < 15.0 { &MANY[..] } else { &FEW[..] };
    all.iter().copied().filter(move |x| low < *x && *x < high)
}

/// A faint line a workload and a tick, and a strong one at 1.
fn lines<B: DrawingBackend>(
    chart: &mut ChartContext<'_, B, Cartesian2d<plotters::coord::combinators::LogCoord<f64>, RangedCoordf64>>,
    rows: usize,
    low: f64,
    high: f64,
) -> Result<(), Failure>
where
    B::ErrorType: 'static,
{
    let faint = RGBColor(225, 225, 225);
    for row in 0..rows {
        let y = row as f64 + 0.5;
        chart.draw_series([PathElement::new([(low, y), (high, y)], faint)])?;
    }
    for x in ticks(low, high) {
        chart.draw_series([PathElement::new([(x, 0.0), (x, rows as f64)], faint)])?;
    }
    let one = PathElement::new([(1.0, 0.0), (1.0, rows as f64)], RGBColor(90, 90, 90).stroke_width(1));
    chart.draw_series([one])?;
    Ok(())
}
