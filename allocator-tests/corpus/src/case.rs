//! What a case is: a program that is called once an epoch, what should be said of it, and who is guilty.

/// A program under way: called once an epoch with the epoch's number, from 0.
pub type Program = Box<dyn FnMut(u32)>;

/// What the judge should say at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// The culprit is called a leak.
    Leak,
    /// A queue whose consumer is too slow.
    Backlog,
    /// Growth without end that becomes ever slower.
    Sublinear,
    /// No site is suspected or called a leak.
    Healthy,
}

impl Expect {
    /// The state that the culprit should have at the end.
    #[must_use]
    pub fn state(self) -> &'static str {
        match self {
            Expect::Leak => "leak",
            Expect::Backlog => "backlog",
            Expect::Sublinear => "sublinear",
            Expect::Healthy => "healthy",
        }
    }
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// As in the list of cases.
    pub name: &'static str,
    /// What it does, in a few words.
    pub what: &'static str,
    /// What should be said at the end.
    pub expect: Expect,
    /// When the growth begins, as a share of the run.
    pub onset: f64,
    /// Grows at an even pace from its onset, so that the time to the verdict is bounded.
    pub steady: bool,
    /// The culprits' chains, leaf first: each must be named.
    pub culprits: &'static [&'static [&'static str]],
    /// Whose stack has one of these functions may be named, too: what belongs to the leak, as the table that holds it.
    pub accomplices: &'static [&'static str],
    /// Begins the program: a seed, and how many epochs it will run.
    pub begin: fn(u64, u32) -> Program,
}

impl Case {
    /// A leak with one culprit that grows steadily from the start.
    #[must_use]
    pub const fn leak(
        name: &'static str,
        what: &'static str,
        culprits: &'static [&'static [&'static str]],
        accomplices: &'static [&'static str],
        begin: fn(u64, u32) -> Program,
    ) -> Case {
        Case { name, what, expect: Expect::Leak, onset: 0.0, steady: true, culprits, accomplices, begin }
    }

    /// A program without a leak.
    #[must_use]
    pub const fn healthy(name: &'static str, what: &'static str, begin: fn(u64, u32) -> Program) -> Case {
        Case { name, what, expect: Expect::Healthy, onset: 0.0, steady: false, culprits: &[], accomplices: &[], begin }
    }

    /// The epoch in which the growth begins.
    #[must_use]
    pub fn onset_epoch(&self, epochs: u32) -> u32 {
        epoch_of(self.onset, epochs)
    }
}

/// The epoch at this share of the run.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an epoch of the run")]
pub fn epoch_of(share: f64, epochs: u32) -> u32 {
    (share * f64::from(epochs)) as u32
}
