//! What was found, as one table and as JSON.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::machine;

/// What a figure should be.
#[derive(Clone, Copy)]
pub enum Goal {
    /// Oriel's figure is at least so much of the floor's.
    OfFloor(f64),
    /// Oriel's figure is at most so many times the floor's.
    TimesFloor(f64),
    /// The figure is at least this.
    AtLeast(f64),
    /// The figure is at most this.
    AtMost(f64),
    /// It is shown, and says nothing alone.
    None,
}

struct Line {
    part: &'static str,
    what: String,
    unit: &'static str,
    oriel: f64,
    floor: Option<f64>,
    goal: Goal,
    note: String,
}

/// See the module.
pub struct Report {
    began: Instant,
    lines: Vec<Line>,
    charts: Vec<String>,
    /// The parts that ended, and how long each took.
    ended: Vec<(String, Duration)>,
    /// What is not in the table that should be.
    broken: Vec<String>,
}

impl Report {
    pub fn new() -> Self {
        Self { began: Instant::now(), lines: Vec::new(), charts: Vec::new(), ended: Vec::new(), broken: Vec::new() }
    }

    /// A figure beside the floor's.
    #[allow(clippy::too_many_arguments)] // a row of a table
    pub fn against(
        &mut self,
        part: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        oriel: f64,
        floor: f64,
        goal: Goal,
        note: impl Into<String>,
    ) {
        self.add(Line { part, what: what.into(), unit, oriel, floor: Some(floor), goal, note: note.into() });
    }

    /// A figure that nothing is compared with.
    pub fn alone(
        &mut self,
        part: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        oriel: f64,
        goal: Goal,
        note: impl Into<String>,
    ) {
        self.add(Line { part, what: what.into(), unit, oriel, floor: None, goal, note: note.into() });
    }

    /// A text chart, below the table.
    pub fn chart(&mut self, chart: String) {
        eprintln!("{chart}");
        self.charts.push(chart);
    }

    /// A part has ended, after so long.
    pub fn ended(&mut self, part: String, after: Duration) {
        eprintln!("{part}: {} s\n", after.as_secs());
        self.ended.push((part, after));
    }

    /// Some of it could not be measured, and why.
    pub fn broke(&mut self, what: String) {
        eprintln!("{what}\n");
        self.broken.push(what);
    }

    /// Whether everything was measured.
    pub fn is_whole(&self) -> bool {
        self.broken.is_empty()
    }

    /// Said at once too, so that who waits sees something.
    fn add(&mut self, line: Line) {
        eprintln!("{line}");
        self.lines.push(line);
    }

    pub fn json(&self) -> String {
        let lines: Vec<_> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "part": line.part,
                    "what": line.what,
                    "unit": line.unit,
                    "oriel": line.oriel,
                    "floor": line.floor,
                    "ratio": line.ratio(),
                    "goal": line.goal.text(),
                    "met": line.is_met(),
                    "note": line.note,
                })
            })
            .collect();
        let parts: serde_json::Map<_, _> =
            self.ended.iter().map(|(part, after)| (part.clone(), json!(after.as_secs()))).collect();
        let report = json!({
            "cores": machine::cores(),
            "seconds": self.began.elapsed().as_secs(),
            "parts": parts,
            "broken": self.broken,
            "lines": lines,
        });
        serde_json::to_string_pretty(&report).unwrap()
    }
}

impl Goal {
    fn text(self) -> Option<String> {
        match self {
            Self::OfFloor(least) => Some(format!("ratio >= {least}")),
            Self::TimesFloor(most) => Some(format!("ratio <= {most}")),
            Self::AtLeast(least) => Some(format!(">= {least}")),
            Self::AtMost(most) => Some(format!("< {most}")),
            Self::None => None,
        }
    }
}

impl Line {
    fn ratio(&self) -> Option<f64> {
        self.floor.map(|floor| self.oriel / floor)
    }

    fn is_met(&self) -> Option<bool> {
        match self.goal {
            Goal::OfFloor(least) => self.ratio().map(|ratio| ratio >= least),
            Goal::TimesFloor(most) => self.ratio().map(|ratio| ratio <= most),
            Goal::AtLeast(least) => Some(self.oriel >= least),
            Goal::AtMost(most) => Some(self.oriel < most),
            Goal::None => None,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = match self.is_met() {
            Some(true) => "met",
            Some(false) => "SHORT",
            None => "",
        };
        write!(
            f,
            "{:<46} {:>10} {:>10} {:<5} {:>6} {:<14} {:<6} {}",
            self.what,
            number(self.oriel),
            self.floor.map(number).unwrap_or_default(),
            self.unit,
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            self.goal.text().unwrap_or_default(),
            met,
            self.note,
        )
    }
}

/// Three significant digits or whole numbers.
fn number(figure: f64) -> String {
    match figure {
        _ if figure >= 100.0 => format!("{figure:.0}"),
        _ if figure >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cores, seconds) = (machine::cores(), self.began.elapsed().as_secs());
        writeln!(f, "Oriel against the floor, in {seconds} s. Server, floor and clients share {cores} cores.")?;
        writeln!(f, "CPU: what the server's process took, for each request or in all.")?;
        let mut part = "";
        for line in &self.lines {
            if part != line.part {
                part = line.part;
                let heads = ["Oriel", "floor", "unit", "ratio", "goal"];
                let [oriel, floor, unit, ratio, goal] = heads;
                writeln!(f, "\n{part:<46} {oriel:>10} {floor:>10} {unit:<5} {ratio:>6} {goal}")?;
            }
            writeln!(f, "{}", line.to_string().trim_end())?;
        }
        self.charts.iter().try_for_each(|chart| writeln!(f, "\n{chart}"))?;
        self.broken.iter().try_for_each(|what| writeln!(f, "\nNOT WHOLE: {what}"))
    }
}
