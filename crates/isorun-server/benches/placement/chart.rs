//! The chart of how the nodes are used.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const COLOURS: [&str; 4] = ["#1f6feb", "#d29922", "#8250df", "#1a7f37"];

/// The use of the nodes under a choice.
pub struct Curve {
    pub name: &'static str,
    /// The runs of each node as a part of its limit.
    pub parts: Vec<f64>,
}

/// Draws the nodes from the least to the most used, as SVG.
pub fn svg(curves: &[Curve]) -> String {
    let x = |part: f64| 70.0 + part * (WIDTH - 190.0);
    let y = |part: f64| HEIGHT - 50.0 - part * (HEIGHT - 90.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"70\" y=\"20\">open runs of each node, in percent of its limit</text>\n"
    );
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let at = y(percent / 100.0);
        let _ = writeln!(
            svg,
            "<line x1=\"70\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"62\" y=\"{:.1}\" text-anchor=\"end\">{percent} %</text>",
            x(1.0),
            at + 4.0
        );
    }
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let mut parts = curve.parts.clone();
        parts.sort_by(f64::total_cmp);
        let last = parts.len().saturating_sub(1).max(1) as f64;
        let point =
            |(at, part): (usize, &f64)| format!("{:.1},{:.1}", x(at as f64 / last), y(*part));
        let points: Vec<String> = parts.iter().enumerate().map(point).collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        );
    }
    for (at, (curve, colour)) in curves.iter().zip(COLOURS).enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            x(1.0) + 8.0,
            60.0 + 18.0 * at as f64,
            curve.name
        );
    }
    let nodes = curves.first().map_or(0, |curve| curve.parts.len());
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{nodes} nodes, from the least to the \
         most used</text>",
        x(0.5),
        HEIGHT - 25.0
    );
    svg + "</svg>\n"
}
