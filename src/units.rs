//! Newtypes for every number that could be mistaken for another.
//!
//! Promises nothing but names: each is a plain copyable number with its unit in its type. No arithmetic lives
//! here beyond what the unit itself means.

/// The number of a node of the calling-context tree: a whole stack. 0 is the root (the empty stack).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct StackId(pub(crate) u32);

impl StackId {
    /// The empty stack, and what a block is attributed to when nothing at all is known of its stack.
    pub(crate) const ROOT: StackId = StackId(0);
}

/// The index of a row in the store's table of sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct SiteId(pub(crate) u32);

/// The index of a row in the store's table of modules. 0 is 'no module': the frame's offset is then the bare address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct ModuleId(pub(crate) u16);

/// A reading of the process's event clock (`sys::clock::now`): time stamp counter ticks where the kernel trusts
/// that counter, nanoseconds of the monotonic clock elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct Ticks(pub(crate) u64);

/// One frame of a stack as the tree keys it: which module, and where in its file.
///
/// Packed as `module << 48 | offset`: addresses recur after `dlclose`, (module row, offset) pairs do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct FrameKey(pub(crate) u64);

impl FrameKey {
    const OFFSET_BITS: u32 = 48;

    /// A marker node under the root: the frames above it were cut at `max_frames` or could not be unwound.
    pub(crate) const TRUNCATED: FrameKey = FrameKey(u64::MAX);

    /// The frame at `offset` bytes from `module`'s load bias (for module 0: at that address).
    pub(crate) const fn new(module: ModuleId, offset: u64) -> FrameKey {
        FrameKey(((module.0 as u64) << Self::OFFSET_BITS) | (offset & ((1 << Self::OFFSET_BITS) - 1)))
    }

    /// The module number that stands for scopes: no table of modules has so many rows.
    const SCOPE: u16 = 0xFFFE;

    /// The pseudo-frame of a scope: under the root, above all frames of what was allocated within it.
    pub(crate) const fn of_scope(scope: u32) -> FrameKey {
        FrameKey::new(ModuleId(Self::SCOPE), scope as u64)
    }

    /// The scope whose pseudo-frame this is.
    pub(crate) const fn scope(self) -> Option<u64> {
        if self.module().0 == Self::SCOPE { Some(self.offset()) } else { None }
    }

    /// The module's row.
    pub(crate) const fn module(self) -> ModuleId {
        ModuleId((self.0 >> Self::OFFSET_BITS) as u16)
    }

    /// The return address less the module's load bias.
    pub(crate) const fn offset(self) -> u64 {
        self.0 & ((1 << Self::OFFSET_BITS) - 1)
    }
}

/// A figure, and the interval that holds the truth in 95% of cases. In exact mode all three are the exact figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The unbiased estimate.
    pub value: f64,
    /// The lower end of the 95% interval.
    pub low: f64,
    /// The upper end of the 95% interval.
    pub high: f64,
}

#[cfg(not(loom))]
impl Estimate {
    /// The sum of two independent estimates: the squares of their half widths add.
    pub(crate) fn plus(self, other: Estimate) -> Estimate {
        let value = self.value + other.value;
        let low = (self.value - self.low).hypot(other.value - other.low);
        let high = (self.high - self.value).hypot(other.high - other.value);
        Estimate { value, low: value - low, high: value + high }
    }
}

/// `46.5 MB`: powers of a thousand, three digits.
#[cfg(not(loom))]
pub(crate) fn size(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if value < 999.5 {
            let decimals = if unit == "bytes" || value >= 99.95 { 0 } else { 1 };
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// `4.3 h`: the largest unit of which there are two.
#[cfg(not(loom))]
pub(crate) fn duration(seconds: f64) -> String {
    for (unit, length) in [("days", 86_400.0), ("h", 3600.0), ("min", 60.0)] {
        if seconds >= 2.0 * length {
            return format!("{:.1} {unit}", seconds / length);
        }
    }
    format!("{seconds:.1} s")
}
