//! The report as a Markdown table, to go where results are published.

use std::fmt::Write;

use super::report::{Figure, Line, Outcome};

/// A heading for the card, then a table of all that was measured, then what did not pass or did not run.
pub fn summary(card: &str, lines: &[Line]) -> String {
    let (mut table, mut rest, mut passed) = (String::new(), String::new(), 0);
    for line in lines {
        match (line.outcome, line.figure) {
            (Outcome::Ok, Some(figure)) => row(&mut table, &line.name, &figure),
            (Outcome::Ok, None) => passed += 1,
            (outcome, _) => {
                let word = if outcome == Outcome::Failed { "**failed**" } else { "left out" };
                let reason = line.reason.as_deref().unwrap_or_default();
                // Text is written into memory: nothing can fail.
                let _ = writeln!(rest, "- {word}: {}: {reason}", line.name);
            }
        }
    }
    let head = "| measure | value | floor | share of the floor |\n|---|---|---|---|\n";
    let table = if table.is_empty() { table } else { format!("\n{head}{table}") };
    let rest = if rest.is_empty() { rest } else { format!("\n{rest}") };
    format!("## {card}, sconce {}\n\n{passed} checks passed.\n{table}{rest}", env!("CARGO_PKG_VERSION"))
}

fn row(table: &mut String, name: &str, figure: &Figure) {
    let unit = figure.unit;
    let floor = figure.floor.map_or(String::new(), |floor| format!("{} {unit}", number(floor)));
    let ratio = figure.ratio.map_or(String::new(), |ratio| format!("{:.1} %", ratio * 100.0));
    // As above.
    let _ = writeln!(table, "| {name} | {} {unit} | {floor} | {ratio} |", number(figure.value));
}

/// Three digits, or all of those in front of the point.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::super::report::{Reason, Report};
    use super::*;

    #[test]
    fn measures_are_rows_and_the_rest_is_told_below() {
        let mut tell = |_: &Line| {};
        let mut report = Report::new(None, &mut tell);
        report.line("kernels", || Ok(serde_json::Value::Null.into()));
        report.line("step", || Ok(Figure::time(0.012_34, Some(0.01)).into()));
        report.line("rate", || Ok(Figure::plain(1234.5, "us").into()));
        report.line("wrong", || Err("value 3".into()));
        report.line("large", || Err(Reason::LeftOut("no room".to_owned())));
        let text = summary("Card", report.lines());
        let want = "1 checks passed.\n\n| measure | value | floor | share of the floor |\n|---|---|---|---|\n\
                    | step | 12.3 ms | 10.0 ms | 81.0 % |\n| rate | 1234 us |  |  |\n\n\
                    - **failed**: wrong: value 3\n- left out: large: no room\n";
        assert!(text.starts_with("## Card, sconce ") && text.ends_with(want), "{text}");
    }
}
