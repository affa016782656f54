//! What a site can be, in one word, and how grave.

/// The state of a site. `docs/leak-detection.md` says what to do on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// All that is live was born at the beginning, or the site stopped allocating.
    Constant,
    /// Blocks come and go; hardly any grow old.
    Churn,
    /// Growing, and ever more slowly: on its way to a bound.
    Warming,
    /// Grew; now old blocks are freed as fast as others grow old.
    Plateau,
    /// Grows and is cleaned up, again and again.
    Sawtooth,
    /// A queue whose consumer is too slow: the oldest are freed first, and more are born than freed.
    Backlog,
    /// Old blocks accumulate beyond chance, but not yet for long enough, or not evenly enough.
    Growing,
    /// Grows without end, but ever more slowly (like √t).
    Sublinear,
    /// Grew steadily for the first period (5 minutes by default) with all gates passed.
    Suspected,
    /// Grew steadily for three such periods with all gates passed.
    Leak,
    /// Records of the site were lost, or too few samples were seen: not judged.
    Unknown,
}

impl State {
    /// The state's name as it is printed and serialized.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Constant => "constant",
            State::Churn => "churn",
            State::Warming => "warming",
            State::Plateau => "plateau",
            State::Sawtooth => "sawtooth",
            State::Backlog => "backlog",
            State::Growing => "growing",
            State::Sublinear => "sublinear",
            State::Suspected => "suspected",
            State::Leak => "leak",
            State::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a verdict has got: what is kept of a site from epoch to epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Tier {
    /// No growth beyond chance.
    #[default]
    None = 0,
    /// Growth beyond chance, gates open.
    Growing = 1,
    /// All gates held at T0.
    Suspected = 2,
    /// All gates held at 3·T0.
    Leak = 3,
}

/// Why a verdict was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub(crate) enum Withdrawal {
    /// Old blocks were freed: the balance is no longer refuted.
    Freed,
    /// The growth slowed down.
    Slowed,
    /// Survivors come from a few moments only.
    Batches,
    /// It has not grown lately.
    Stopped,
    /// The table stopped growing.
    TableFilled,
    /// The grounds have to be gathered anew (a longer clean-up period was seen, or the group of stacks changed).
    Restarted,
    /// Records of it were lost, so what is live is not known.
    RecordsLost,
}

impl Withdrawal {
    /// All, in the order of their numbers.
    pub(crate) const ALL: [Withdrawal; 7] = [
        Withdrawal::Freed,
        Withdrawal::Slowed,
        Withdrawal::Batches,
        Withdrawal::Stopped,
        Withdrawal::TableFilled,
        Withdrawal::Restarted,
        Withdrawal::RecordsLost,
    ];

    /// The reason in words.
    #[must_use]
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Withdrawal::Freed => "old blocks were freed again",
            Withdrawal::Slowed => "its growth slowed down",
            Withdrawal::Batches => "what survives comes from a few moments only",
            Withdrawal::Stopped => "it has not grown lately",
            Withdrawal::TableFilled => "its table stopped growing",
            Withdrawal::RecordsLost => "records of it were lost",
            Withdrawal::Restarted => "its evidence has to be gathered anew",
        }
    }
}

/// A verdict that began, worsened or was withdrawn in the epoch just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// To 'suspected'.
    Suspected,
    /// To 'leak'.
    Leak,
    /// From 'suspected' or 'leak' to neither.
    Withdrawn(Withdrawal),
}
