//! Owns: the figures: each round's, the tables, and in the end each row with its target beside it.
//! Never: how a figure came about.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Above this share of stolen processor time a figure says little.
const MOST_STOLEN_PERCENT: f64 = 5.0;

/// All figures so far.
pub struct Report {
    text: String,
    rounds: String,
    verdicts: Vec<Verdict>,
}

/// A row of what is to be reached.
pub struct Verdict {
    /// As the aims are numbered.
    pub row: u32,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    pub target: Target,
    pub stolen_percent: f64,
}

#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Report {
    pub fn new(head: &str) -> Report {
        print!("{head}");
        let rounds = "part,what,round,value,unit,stolen_percent\n".to_owned();
        Report { text: head.to_owned(), rounds, verdicts: Vec::new() }
    }

    /// A line of the table.
    pub fn line(&mut self, line: &str) {
        println!("{line}");
        self.text += line;
        self.text.push('\n');
    }

    /// A heading.
    pub fn heading(&mut self, line: &str) {
        self.line("");
        self.line(line);
    }

    /// A measured value.
    pub fn round(&mut self, part: &str, what: &str, round: usize, value: f64, unit: &str, stolen_percent: f64) {
        let what = what.replace(',', ";");
        let _ = writeln!(self.rounds, "{part},{what},{round},{value},{unit},{stolen_percent:.1}");
    }

    pub fn verdict(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }

    /// The last part of the table.
    pub fn conclude(&mut self) {
        self.heading("row  what                                                                    value     target");
        for verdict in std::mem::take(&mut self.verdicts) {
            let Verdict { row, what, value, unit, target, stolen_percent } = verdict;
            let (sign, bound, is_met) = match target {
                Target::AtMost(most) => ("<=", most, value <= most),
                Target::AtLeast(least) => (">=", least, value >= least),
            };
            let met = if is_met { "" } else { "  MISSED" };
            let mark = mark(stolen_percent);
            self.line(&format!("{row:<4} {what:<66} {value:>9.2}{mark:<1} {sign} {bound:.1} {unit}{met}"));
        }
        self.line("* more than 5 % of the processor time was stolen meanwhile: too busy a machine to judge by");
    }

    pub fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).expect("a directory for the figures");
        fs::write(dir.join("table.txt"), &self.text).expect("the table can be written");
        fs::write(dir.join("rounds.csv"), &self.rounds).expect("the rounds can be written");
    }
}

/// What stands behind a figure of a busy machine.
pub fn mark(stolen_percent: f64) -> &'static str {
    if stolen_percent > MOST_STOLEN_PERCENT { "*" } else { "" }
}

/// The middle of some values.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
