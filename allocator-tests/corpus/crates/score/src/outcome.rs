//! What one run found: the line that a program prints, see `programs/rounds.rs`.

use serde_json::Value;

/// When a verdict on the culprit came, and how much it held by then.
#[derive(Clone, Copy)]
pub struct Since {
    pub epoch: u64,
    pub bytes: f64,
}

/// One run.
pub struct Outcome {
    /// The culprit's state at the end, and its place in the report; `None` where it was not judged at all.
    pub state: Option<String>,
    pub rank: Option<u64>,
    pub suspected: Option<Since>,
    pub leak: Option<Since>,
    /// Sites that are suspected or called a leak at the end.
    pub accused: u64,
    /// Accusations of sites that have nothing to do with the culprit.
    pub others_suspected: u64,
    pub others_leak: u64,
    pub others_suspected_ever: u64,
    pub others_leak_ever: u64,
    /// By the exact totals.
    pub live_bytes: u64,
    pub total_blocks: u64,
    /// The chain of the worst site, for those who look for what went wrong.
    pub worst: String,
}

impl Outcome {
    pub fn parse(line: &[u8]) -> Result<Outcome, String> {
        let value: Value = serde_json::from_slice(line).map_err(|error| format!("its outcome: {error}"))?;
        let number = |name: &str| value[name].as_u64().ok_or(format!("no {name} in its outcome"));
        let since = |name: &str| {
            let epoch = value[name][0].as_u64()?;
            Some(Since { epoch, bytes: value[name][1].as_f64()? })
        };
        let frames = value["worst"][0]["frames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(Outcome {
            state: value["state"].as_str().map(str::to_owned),
            rank: value["rank"].as_u64(),
            suspected: since("suspected"),
            leak: since("leak"),
            accused: number("accused")?,
            others_suspected: number("others_suspected")?,
            others_leak: number("others_leak")?,
            others_suspected_ever: number("others_suspected_ever")?,
            others_leak_ever: number("others_leak_ever")?,
            live_bytes: number("live_bytes")?,
            total_blocks: number("total_blocks")?,
            worst: frames.take(4).collect::<Vec<_>>().join(" < "),
        })
    }

    /// For the progress.
    pub fn in_words(&self) -> String {
        let state = self.state.as_deref().unwrap_or("not judged");
        let rank = self.rank.map_or_else(String::new, |rank| format!(", place {rank}"));
        let leak = self.leak.map_or_else(String::new, |since| format!(", a leak since {}", since.epoch));
        format!("{state}{rank}{leak}; {} live of {} blocks", mb(self.live_bytes as f64), self.total_blocks)
    }
}

/// Millions of bytes.
pub fn mb(bytes: f64) -> String {
    format!("{:.2} MB", bytes / 1e6)
}
