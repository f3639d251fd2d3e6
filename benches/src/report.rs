//! What is printed: a table for each part, the comparison with pg_cron, and the goals at the end.

use crate::stats::Samples;

/// The unit of what is counted.
pub const COUNT: &str = "";
/// The unit of what is compared.
pub const RATIO: &str = "×";

/// The heading of a part's table, whose rows are printed by `row`.
pub fn heading(title: &str) {
    println!("\n{title:<58}{:>9}{:>9}{:>9}{:>9}", "median", "p10", "p90", "p99");
}

/// A row of measurements.
pub fn row(label: &str, samples: &Samples) {
    let figure = |percent| number(samples.percentile(percent));
    println!(
        "  {label:<56}{:>9}{:>9}{:>9}{:>9}",
        figure(50.0),
        figure(10.0),
        figure(90.0),
        figure(99.0)
    );
}

/// A row with one figure.
pub fn fact(label: &str, figure: &str) {
    println!("  {label:<56}{figure:>9}");
}

/// A line of a table with many columns, or its heading.
pub fn line(label: &str, cells: &[String]) {
    let cells: String = cells.iter().map(|cell| format!("{cell:>9}")).collect();
    println!("  {label:<9}{cells}");
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size.is_nan() => "-".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        size if size >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}

/// How far measurements lie apart; nothing of a single one.
pub fn spread(samples: &Samples) -> String {
    if samples.count() < 2 {
        return "-".to_owned();
    }
    let range = samples.max() - samples.percentile(0.0);
    format!("{:.0} %", range / samples.median() * 100.0)
}

/// Says on the terminal, not in the report, what is being waited for.
pub fn progress(what: &str) {
    eprintln!("... {what}");
}

/// The project's goals, and what was measured.
#[derive(Default)]
pub struct Goals(Vec<(String, f64, f64, &'static str)>);

impl Goals {
    /// `measured` is to be below `limit`.
    pub fn below(&mut self, what: &str, measured: f64, limit: f64, unit: &'static str) {
        self.0.push((what.to_owned(), measured, limit, unit));
    }

    /// Prints them all.
    pub fn print(&self) {
        println!("\n{:<58}{:>13}{:>13}", "Goals", "measured", "below");
        for (what, measured, limit, unit) in &self.0 {
            let verdict = if measured < limit { "met" } else { "NOT MET" };
            let measured = match *unit {
                COUNT => format!("{measured:.0}"),
                _ => format!("{} {unit}", number(*measured)),
            };
            let limit = match *unit {
                RATIO => format!("{} {unit}", number(*limit)),
                _ => format!("{limit} {unit}"),
            };
            println!("  {what:<56}{measured:>13}{:>13}  {verdict}", limit.trim_end());
        }
    }
}

/// The same figure of both extensions.
#[derive(Default)]
pub struct Comparison(Vec<(&'static str, String, String)>);

impl Comparison {
    /// This extension's figure.
    pub fn ours(&mut self, label: &'static str, figure: String) {
        self.row(label).1 = figure;
    }

    /// pg_cron's.
    pub fn theirs(&mut self, label: &'static str, figure: String) {
        self.row(label).2 = figure;
    }

    fn row(&mut self, label: &'static str) -> &mut (&'static str, String, String) {
        let index = self.0.iter().position(|row| row.0 == label).unwrap_or_else(|| {
            self.0.push((label, String::new(), String::new()));
            self.0.len() - 1
        });
        &mut self.0[index]
    }

    /// Prints them side by side.
    pub fn print(&self) {
        if self.0.iter().all(|(_, _, theirs)| theirs.is_empty()) {
            return;
        }
        println!(
            "\n{:<58}{:>18}{:>18}",
            "The same job under pg_cron", "cache_refresher", "pg_cron"
        );
        for (label, ours, theirs) in &self.0 {
            if !theirs.is_empty() {
                println!("  {label:<56}{ours:>18}{theirs:>18}");
            }
        }
    }
}
