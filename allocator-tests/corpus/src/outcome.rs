//! What a run found, as it goes from the process that ran it to the one that writes the table.

use serde::{Deserialize, Serialize};

/// How a run is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sampling {
    /// Every block.
    Exact,
    /// A fixed mean interval in bytes.
    Every(u64),
}

impl Sampling {
    /// The three that each case is scored at.
    pub const SCORED: [Sampling; 3] = [Sampling::Exact, Sampling::Every(16 << 10), Sampling::Every(64 << 10)];

    /// The interval in bytes; 0 where every block counts.
    #[must_use]
    pub fn interval_bytes(self) -> u64 {
        match self {
            Sampling::Exact => 0,
            Sampling::Every(bytes) => bytes,
        }
    }
}

impl std::fmt::Display for Sampling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sampling::Exact => f.write_str("exact"),
            Sampling::Every(bytes) => write!(f, "{}K", bytes >> 10),
        }
    }
}

impl std::str::FromStr for Sampling {
    type Err = String;

    fn from_str(text: &str) -> Result<Sampling, String> {
        let kib = text.strip_suffix('K').and_then(|kib| kib.parse::<u64>().ok()).filter(|kib| *kib > 0);
        match (text, kib) {
            ("exact", _) => Ok(Sampling::Exact),
            (_, Some(kib)) => Ok(Sampling::Every(kib << 10)),
            _ => Err(format!("'{text}' is no sampling; allowed are 'exact' and an interval in KiB such as '16K'")),
        }
    }
}

impl TryFrom<String> for Sampling {
    type Error = String;

    fn try_from(text: String) -> Result<Sampling, String> {
        text.parse()
    }
}

impl From<Sampling> for String {
    fn from(sampling: Sampling) -> String {
        sampling.to_string()
    }
}

/// One run of one case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The case's name.
    pub case: String,
    /// How it was sampled.
    pub sampling: Sampling,
    /// Its seed.
    pub seed: u64,
    /// One for each culprit's chain of the case.
    pub culprits: Vec<Culprit>,
    /// All others.
    pub innocents: Innocents,
    /// Milliseconds that the program ran.
    pub took_ms: u64,
}

/// What was said of one culprit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Culprit {
    /// Its state at the end; empty where it is not in the report at all.
    pub state: String,
    /// Its place in the report, from 1.
    pub rank: Option<usize>,
    /// Sampled blocks alive at the end, of all its stacks.
    pub live_samples: f64,
    /// Bytes alive at the end, as estimated.
    pub live_bytes: f64,
    /// When it was first suspected.
    pub suspected: Option<Reached>,
    /// When it was first called a leak.
    pub leak: Option<Reached>,
}

/// When a verdict was reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// Epochs from the onset of the growth.
    pub epochs: u32,
    /// Bytes alive by then, as estimated.
    pub bytes: f64,
}

/// Innocent sites, by their chains.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Innocents {
    /// Judged sites.
    pub sites: usize,
    /// Suspected or called a leak at some time.
    pub ever_suspected: Vec<String>,
    /// Called a leak at some time.
    pub ever_leak: Vec<String>,
    /// Suspected at the end.
    pub suspected_at_end: Vec<String>,
    /// Called a leak at the end.
    pub leak_at_end: Vec<String>,
    /// Called a backlog at the end: no leak, but a place to look at all the same.
    pub backlog_at_end: Vec<String>,
}

/// What the simpler rules said of the same program with the same seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RivalsOutcome {
    /// The case's name.
    pub case: String,
    /// How it was sampled.
    pub sampling: Sampling,
    /// Its seed.
    pub seed: u64,
    /// In the order of [`RIVALS`].
    pub said: [RivalSaid; 3],
}

/// The simpler rules.
pub const RIVALS: [&str; 3] = ["Scalene's formula", "old live blocks", "slope test"];

/// What one rule said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RivalSaid {
    /// All culprits are leaks at the end.
    pub names_culprits: bool,
    /// Some innocent site is a leak at the end.
    pub accuses_at_end: bool,
    /// Some innocent site was a leak at some time.
    pub accused_ever: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplings_are_read_as_they_are_written() {
        for sampling in Sampling::SCORED {
            assert_eq!(sampling.to_string().parse(), Ok(sampling));
        }
        assert!("0K".parse::<Sampling>().is_err());
        assert!("16".parse::<Sampling>().unwrap_err().contains("'16K'"));
    }
}
