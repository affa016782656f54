//! What a profile is to be: the builder's values and the environment's, checked before anything starts.
//!
//! Promises: a bad value is an error that names the method or variable, the value and what is allowed; nothing is
//! started then. The environment is ignored in a process with raised privileges (AT_SECURE).

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::leak::LeakConfig;

/// 1% of the process's CPU time.
const DEFAULT_BUDGET: f64 = 0.01;
/// Above this no program allocates between two samples in a lifetime; the arithmetic stays exact.
const MAX_INTERVAL_BYTES: u64 = 1 << 40;

/// Which blocks are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sampling {
    /// The interval is chosen within a share of the process's CPU time.
    Governed(f64),
    /// A mean of this many bytes between samples.
    Fixed(u64),
    /// Every block.
    Exact,
}

/// Where the store goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StorePlace {
    /// `$UNFREED_DIR`, else shared memory, else memory only.
    Default,
    Path(PathBuf),
    Memory,
}

/// When an epoch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epochs {
    Every(Duration),
    Manual,
}

/// A profile's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) sampling: Sampling,
    /// `None`: no file at the end.
    pub(crate) output: Option<Cow<'static, Path>>,
    pub(crate) store: StorePlace,
    pub(crate) keep_store: bool,
    pub(crate) epochs: Epochs,
    pub(crate) max_frames: usize,
    pub(crate) quiet: bool,
    pub(crate) signals: bool,
    /// Trimming of the written backtraces: `None` shows every frame, `Some(n)` at most n.
    pub(crate) trim: Option<usize>,
    /// The dhat surface: an assertion may end the profile, and a summary is dhat's.
    pub(crate) testing: bool,
    /// The judge's thresholds.
    pub(crate) leaks: LeakConfig,
    /// Unwind every stack twice and count disagreements.
    pub(crate) check_stacks: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            sampling: Sampling::Governed(DEFAULT_BUDGET),
            // Borrowed: what a start allocates is not the program's.
            output: Some(Cow::Borrowed(Path::new("dhat-heap.json"))),
            store: StorePlace::Default,
            keep_store: false,
            epochs: Epochs::Every(Duration::from_secs(5)),
            max_frames: 128,
            quiet: false,
            signals: true,
            trim: Some(usize::MAX),
            testing: false,
            leaks: LeakConfig::default(),
            check_stacks: false,
        }
    }
}

impl Config {
    /// Refuses what is not allowed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.sampling {
            Sampling::Fixed(bytes) if bytes == 0 || bytes > MAX_INTERVAL_BYTES => {
                return Err(Error::Value {
                    name: "sample_interval",
                    value: bytes.to_string(),
                    allowed: "1 byte to 1 TiB; for every block use exact()",
                });
            }
            Sampling::Governed(budget) if !(budget > 0.0 && budget <= 1.0) => {
                return Err(Error::Value {
                    name: "overhead_budget",
                    value: budget.to_string(),
                    allowed: "a share of CPU time above 0 and up to 1, such as 0.01 for 1%",
                });
            }
            _ => {}
        }
        if let Epochs::Every(length) = self.epochs
            && !(Duration::from_millis(10)..=Duration::from_secs(86_400)).contains(&length)
        {
            return Err(Error::Value {
                name: "epoch",
                value: format!("{length:?}"),
                allowed: "10 ms to 24 h; or manual_epochs()",
            });
        }
        if !(4..=1024).contains(&self.max_frames) {
            return Err(Error::Value {
                name: "max_frames",
                value: self.max_frames.to_string(),
                allowed: "4 to 1024 frames",
            });
        }
        self.leaks.validate().map_err(Error::LeakConfig)?;
        if let Some(path) = self.output.as_deref().filter(|path| names_nothing(path)) {
            return Err(Error::Value {
                name: "output",
                value: path.display().to_string(),
                allowed: "a file's path; or no_output()",
            });
        }
        if let StorePlace::Path(path) = &self.store
            && names_nothing(path)
        {
            return Err(Error::Value {
                name: "store",
                value: path.display().to_string(),
                allowed: "a file's path; or store_in_memory()",
            });
        }
        Ok(())
    }

    /// What the environment asks for; `None` where `UNFREED` is unset or `off`.
    pub(crate) fn from_env() -> Result<Option<Config>, Error> {
        Config::from_variables(variable)
    }

    fn from_variables(os: impl Fn(&str) -> Option<OsString>) -> Result<Option<Config>, Error> {
        let get = |name: &str| os(name).map(|value| value.to_string_lossy().into_owned());
        let mut config = Config::default();
        match get("UNFREED").as_deref() {
            None | Some("" | "off") => return Ok(None),
            Some("sampled") => {}
            Some("exact") => config.sampling = Sampling::Exact,
            Some(other) => {
                return Err(Error::Value { name: "UNFREED", value: other.into(), allowed: "off, sampled or exact" });
            }
        }
        if let Some(value) = get("UNFREED_SAMPLE_INTERVAL") {
            let bytes = parse_bytes(&value).filter(|bytes| (1..=MAX_INTERVAL_BYTES).contains(bytes));
            let Some(bytes) = bytes else {
                return Err(Error::Value {
                    name: "UNFREED_SAMPLE_INTERVAL",
                    value,
                    allowed: "a number of bytes from 1 to 1024G, with an optional suffix K, M or G: 512K",
                });
            };
            if config.sampling == Sampling::Exact {
                return Err(Error::Value { name: "UNFREED_SAMPLE_INTERVAL", value, allowed: NOT_IF_EXACT });
            }
            config.sampling = Sampling::Fixed(bytes);
        }
        if let Some(value) = get("UNFREED_OVERHEAD") {
            let percent = number(&value, '%');
            let Some(percent) = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0) else {
                return Err(Error::Value {
                    name: "UNFREED_OVERHEAD",
                    value,
                    allowed: "a percentage of CPU time above 0 and up to 100: 1",
                });
            };
            let allowed = match config.sampling {
                Sampling::Governed(_) => "",
                Sampling::Fixed(_) => {
                    "nothing beside UNFREED_SAMPLE_INTERVAL: what is fixed is not chosen within a budget"
                }
                Sampling::Exact => NOT_IF_EXACT,
            };
            if !allowed.is_empty() {
                return Err(Error::Value { name: "UNFREED_OVERHEAD", value, allowed });
            }
            config.sampling = Sampling::Governed(percent / 100.0);
        }
        if let Some(value) = os("UNFREED_OUTPUT") {
            config.output = match value.to_str() {
                Some("") => {
                    let value = String::new();
                    return Err(Error::Value { name: "UNFREED_OUTPUT", value, allowed: "a file's path, or none" });
                }
                Some("none") => None,
                // A path need not be Unicode.
                _ => Some(PathBuf::from(value).into()),
            };
        }
        if let Some(value) = get("UNFREED_EPOCH") {
            let seconds = number(&value, 's');
            let Some(seconds) = seconds.filter(|seconds| (0.01..=86_400.0).contains(seconds)) else {
                return Err(Error::Value { name: "UNFREED_EPOCH", value, allowed: "seconds from 0.01 to 86400: 5" });
            };
            config.epochs = Epochs::Every(Duration::from_secs_f64(seconds));
        }
        Ok(Some(config))
    }
}

/// No file has such a name: none at all, or one with a zero byte in it.
fn names_nothing(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.as_os_str().as_encoded_bytes().contains(&0)
}

/// The directory that the environment names for stores.
pub(crate) fn store_directory() -> Option<PathBuf> {
    variable("UNFREED_DIR").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `UNFREED_SLOTS=off`: sampled blocks stay with the inner allocator, for programs that hand them to C's `free`.
pub(crate) fn slots_off() -> Result<bool, Error> {
    slots_off_by(variable("UNFREED_SLOTS"))
}

fn slots_off_by(value: Option<OsString>) -> Result<bool, Error> {
    let value = value.unwrap_or_default().to_string_lossy().into_owned();
    match value.as_str() {
        "off" => Ok(true),
        "" | "on" => Ok(false),
        _ => Err(Error::Value { name: "UNFREED_SLOTS", value, allowed: "on or off" }),
    }
}

fn variable(name: &str) -> Option<OsString> {
    if crate::sys::process::is_privileged() { None } else { std::env::var_os(name) }
}

/// What is allowed of samples' variables in exact mode.
const NOT_IF_EXACT: &str = "nothing beside UNFREED=exact, which records every block; for a sample use UNFREED=sampled";

/// `2.5`, or `2.5%` where that is the unit.
fn number(text: &str, unit: char) -> Option<f64> {
    let text = text.trim();
    text.strip_suffix(unit).unwrap_or(text).parse().ok()
}

/// `512K` and the like; binary multiples.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text.get(digits.len()..)?.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        _ => return None,
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn config(pairs: &[(&str, &str)]) -> Result<Option<Config>, Error> {
        Config::from_variables(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
    }

    #[test]
    fn a_path_need_not_be_unicode() {
        use std::os::unix::ffi::OsStrExt;
        let path = OsStr::from_bytes(b"/tmp/\xff.json");
        let c = Config::from_variables(|name| match name {
            "UNFREED" => Some("exact".into()),
            "UNFREED_OUTPUT" => Some(path.to_owned()),
            _ => None,
        });
        assert_eq!(c.expect("ok").expect("some").output.as_deref(), Some(Path::new(path)));
    }

    #[test]
    fn slots_are_on_or_off() {
        for (value, expected) in
            [(None, Some(false)), (Some("off"), Some(true)), (Some("on"), Some(false)), (Some("0"), None)]
        {
            let found = slots_off_by(value.map(OsString::from));
            assert_eq!(found.as_ref().ok().copied(), expected, "{value:?}: {found:?}");
            if let Err(error) = found {
                let text = error.to_string();
                assert!(text.contains("UNFREED_SLOTS") && text.contains("'0'") && text.contains("on or off"), "{text}");
            }
        }
    }

    #[test]
    fn unset_and_off_are_no_profile() {
        assert!(config(&[]).expect("ok").is_none());
        assert!(config(&[("UNFREED", "off"), ("UNFREED_EPOCH", "x")]).expect("ok").is_none());
    }

    #[test]
    fn values_are_taken() {
        let c = config(&[("UNFREED", "sampled"), ("UNFREED_SAMPLE_INTERVAL", "512K"), ("UNFREED_OUTPUT", "/tmp/x")]);
        let c = c.expect("ok").expect("some");
        assert_eq!(c.sampling, Sampling::Fixed(512 * 1024));
        assert_eq!(c.output.as_deref(), Some(Path::new("/tmp/x")));
        let c = config(&[("UNFREED", "sampled"), ("UNFREED_OVERHEAD", "2.5"), ("UNFREED_EPOCH", "0.5")]);
        let c = c.expect("ok").expect("some");
        assert_eq!(c.sampling, Sampling::Governed(0.025));
        assert_eq!(c.epochs, Epochs::Every(Duration::from_millis(500)));
        let c = config(&[("UNFREED", "exact")]).expect("ok").expect("some");
        assert_eq!(c.sampling, Sampling::Exact);
    }

    #[test]
    fn bad_values_name_variable_value_and_what_is_allowed() {
        for (name, value, word) in [
            ("UNFREED", "yes", "sampled"),
            ("UNFREED_SAMPLE_INTERVAL", "12Q", "suffix"),
            ("UNFREED_SAMPLE_INTERVAL", "0", "from 1"),
            ("UNFREED_OVERHEAD", "-1", "percentage"),
            ("UNFREED_OVERHEAD", "1%%%", "percentage"),
            ("UNFREED_EPOCH", "never", "seconds"),
            ("UNFREED_EPOCH", "5sss", "seconds"),
            ("UNFREED_OUTPUT", "", "path"),
        ] {
            let mut pairs = vec![(name, value)];
            if name != "UNFREED" {
                pairs.push(("UNFREED", "sampled"));
            }
            let text = config(&pairs).expect_err("bad").to_string();
            assert!(text.contains(name) && text.contains(value) && text.contains(word), "{text}");
        }
    }

    #[test]
    fn units_may_stand_behind_numbers() {
        let c = config(&[("UNFREED", "sampled"), ("UNFREED_OVERHEAD", "2.5%"), ("UNFREED_EPOCH", " 5s ")]);
        let c = c.expect("ok").expect("some");
        assert_eq!((c.sampling, c.epochs), (Sampling::Governed(0.025), Epochs::Every(Duration::from_secs(5))));
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_both_names() {
        let (interval, overhead) = (("UNFREED_SAMPLE_INTERVAL", "64K"), ("UNFREED_OVERHEAD", "2"));
        for (mode, pairs, names) in [
            ("sampled", &[interval, overhead][..], ["UNFREED_SAMPLE_INTERVAL", "UNFREED_OVERHEAD"]),
            ("exact", &[interval], ["UNFREED_SAMPLE_INTERVAL", "UNFREED=exact"]),
            ("exact", &[overhead], ["UNFREED_OVERHEAD", "UNFREED=exact"]),
        ] {
            let pairs: Vec<_> = [("UNFREED", mode)].iter().chain(pairs).copied().collect();
            let text = config(&pairs).expect_err("a contradiction").to_string();
            assert!(names.iter().all(|name| text.contains(name)), "{text}");
        }
        assert!(config(&[("UNFREED", "off"), interval, overhead]).expect("ok").is_none());
    }

    #[test]
    fn the_builder_refuses_what_makes_no_sense() {
        let bad = [
            Config { sampling: Sampling::Fixed(0), ..Config::default() },
            Config { sampling: Sampling::Governed(0.0), ..Config::default() },
            Config { sampling: Sampling::Governed(f64::NAN), ..Config::default() },
            Config { max_frames: 2, ..Config::default() },
            Config { epochs: Epochs::Every(Duration::ZERO), ..Config::default() },
            Config { output: Some(PathBuf::new().into()), ..Config::default() },
            Config { output: Some(PathBuf::from("a\0b").into()), ..Config::default() },
            Config { store: StorePlace::Path(PathBuf::new()), ..Config::default() },
            Config { store: StorePlace::Path(PathBuf::from("a\0b")), ..Config::default() },
        ];
        for config in bad {
            let text = config.check().expect_err("bad").to_string();
            assert!(text.contains("allowed:"), "{text}");
        }
        Config::default().check().expect("the default is allowed");
    }
}
