//! The short table in the root's README: a line a promise.

use crate::bounds::{PROMISES, Row, Verdict};
use crate::machine::Machine;

/// The README's table: a line a promise, how many rows kept it, and the worst.
pub fn short_table(rows: &[Row], page: &str, machine: &Machine, warnings: &[String]) -> String {
    let mut out = format!(
        "{}, {} cores, {}: [the whole page]({page}), which says how it was measured.\n\n",
        machine.cpu, machine.cores, machine.date
    );
    for warning in warnings {
        out.push_str(&format!("**{warning}**\n\n"));
    }
    out.push_str(
        "| what | aim | at most | rows | aim met | kept | missed | by at most |\n|---|---|---|--:|--:|--:|--:|---|\n",
    );
    for promise in PROMISES {
        let of: Vec<&Row> = rows.iter().filter(|row| row.promise == promise).collect();
        if let Some(first) = of.first() {
            out.push_str(&short_row(promise, first, &of));
        }
    }
    out
}

fn short_row(promise: &str, first: &Row, of: &[&Row]) -> String {
    let count = |wanted: &dyn Fn(&Verdict) -> bool| of.iter().filter(|row| wanted(&row.verdict)).count();
    let far = |row: &Row| if let Verdict::Missed { by, .. } = row.verdict { by } else { 0.0 };
    let worst = of.iter().max_by(|a, b| far(a).total_cmp(&far(b))).filter(|row| far(row) > 0.0);
    let mut told: Vec<String> =
        worst.iter().map(|row| format!("{}: {}", row.verdict.text().replace("missed by ", ""), row.what)).collect();
    let not_asked = count(&|verdict| matches!(verdict, Verdict::NotAsked(_)));
    let beyond = count(&|verdict| matches!(verdict, Verdict::Beyond(_)));
    let unknown = count(&|verdict| matches!(verdict, Verdict::Unknown(_)));
    for (count, what) in [
        (not_asked, "more that it does not apply to"),
        (beyond, "that nothing could keep"),
        (unknown, "without a figure"),
    ] {
        if count > 0 {
            told.push(format!("{count} {what}"));
        }
    }
    format!(
        "| {promise} | {} | {} | {} | {} | {} | {} | {} |\n",
        first.aim,
        first.at_most,
        of.len() - not_asked,
        count(&|verdict| *verdict == Verdict::Aim),
        count(&|verdict| *verdict == Verdict::Kept),
        count(&|verdict| matches!(verdict, Verdict::Missed { .. })),
        told.join("; ")
    )
}

const BEGIN: &str = "<!-- speed: written by allocator-tests/peers, not by hand -->";
const END: &str = "<!-- /speed -->";

/// The README with what stands between the markers replaced; `None` where it has no markers.
pub fn with_table(readme: &str, table: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, short_row, with_table};
    use crate::bounds::{GOVERNED_INTERVAL, Row, Verdict};

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let readme = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(with_table(&readme, "new\n"), Some(format!("a\n{BEGIN}\nnew\n{END}\nb\n")));
        assert_eq!(with_table("no markers", "new"), None);
    }

    #[test]
    fn rows_that_a_bound_does_not_apply_to_are_not_counted() {
        let row = |verdict| Row {
            what: "a workload".to_owned(),
            aim: "none".to_owned(),
            at_most: "64 KiB".to_owned(),
            measured: String::new(),
            verdict,
            promise: GOVERNED_INTERVAL,
        };
        let rows = [row(Verdict::NotAsked("x")), row(Verdict::Kept), row(Verdict::NotAsked("x"))];
        let line = short_row("p", &rows[0], &rows.iter().collect::<Vec<_>>());
        assert_eq!(line, "| p | none | 64 KiB | 1 | 0 | 1 | 0 | 2 more that it does not apply to |\n");
    }
}
