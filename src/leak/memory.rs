//! Where resident memory is: live requests, what the allocator rounds and keeps, and what never came by it.
//!
//! Promises: pure arithmetic over figures that were read elsewhere. A cause is named only where the allocator's own
//! figures leave no other; what was not asked is said to be not asked.
//!
//! Method: what resident memory grew by beyond live bytes (and beyond what the profiler itself took) is unexplained.
//! Where the allocator's free but kept memory (held − allocated) grew by at least half of that, it is retention; where it
//! did not, the memory came from elsewhere.

/// Where the process's memory is, in bytes.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Memory {
    /// What the program requested and has not freed, exactly; of the whole process since its start, in every mode.
    pub requested_bytes: u64,
    /// The allocator that was recognised by its own statistics.
    pub allocator: Option<&'static str>,
    /// What is allocated, with roundings and headers, as the allocator says, and the slots of ours that hold blocks of the
    /// program. glibc's figure has what C libraries hold in it.
    pub usable_bytes: Option<u64>,
    /// The same with what is free but kept: what was taken from the system and not given back.
    pub held_bytes: Option<u64>,
    /// How old the allocator's answer is; it is asked on the threads of the program alone.
    pub answer_age_seconds: Option<f64>,
    /// Why there is no (fresh) answer.
    pub not_asked: Option<&'static str>,
    /// Slots of ours that serve sampled blocks of the program (at most); part of `usable_bytes`.
    pub slots_bytes: u64,
    /// The profiler's own memory (at most): the store, histories, reports, and entries of slots.
    pub profiler_bytes: u64,
    /// Resident memory of the process. Of a store it is that of the last epoch's end.
    pub resident_bytes: Option<u64>,
    /// What its cgroup is charged with, page cache and other processes included.
    pub cgroup_bytes: Option<u64>,
    /// The tightest limit.
    pub limit_bytes: Option<u64>,
    /// Which limit that is.
    pub limit_name: Option<&'static str>,
    /// Resident memory that grew while live bytes did not.
    pub unexplained: Option<Unexplained>,
}

/// Resident memory that grew while live bytes did not, over the report's window.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Unexplained {
    /// How much, in bytes.
    pub bytes: f64,
    /// Where it is.
    pub cause: MemoryCause,
}

/// Where memory is that is resident but not live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemoryCause {
    /// The allocator keeps what was freed: fragmentation, or pages not yet given back. Not a leak.
    AllocatorRetention,
    /// C libraries allocated it from the same allocator.
    ForeignAllocations,
    /// It is outside every allocator that was asked: mappings, another allocator, stacks.
    OutsideAllocator,
    /// The allocator was not asked, or too seldom, to tell which.
    RetentionOrOutside,
}

/// The process's figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Moment {
    pub(crate) at_ns: u64,
    pub(crate) requested: u64,
    pub(crate) resident: u64,
    /// The profiler's own, slots apart.
    pub(crate) own: u64,
    pub(crate) slots: u64,
}

/// What the allocator said at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Said {
    pub(crate) at: Moment,
    pub(crate) allocated: u64,
    pub(crate) held: u64,
}

impl Said {
    /// Free, but kept.
    fn kept(&self) -> f64 {
        self.held.saturating_sub(self.allocated) as f64
    }

    /// Allocated by others than the program, or rounding.
    fn foreign(&self) -> f64 {
        (self.allocated + self.at.slots) as f64 - self.at.requested as f64
    }
}

/// Below this nothing is said: stacks, code and page tables come and go by as much.
const LEAST_BYTES: f64 = 8e6;
/// What rounding adds to live bytes at most: jemalloc's size classes are up to a quarter apart.
const ROUNDING: f64 = 1.25;
/// Answers that bracket the window to within this share of it speak for it.
const BRACKET_SHARE: f64 = 0.25;
/// Or to within this.
const BRACKET_NS: f64 = 10e9;

/// What grew from `before` to `now` without being live. `said`: the allocator's answers, oldest first.
pub(crate) fn unexplained(before: &Moment, now: &Moment, said: &[Said], threshold_percent: f64) -> Option<Unexplained> {
    if before.resident == 0 || now.resident == 0 {
        return None;
    }
    let apart = |moment: &Moment| moment.resident as f64 - moment.own as f64;
    // Slots stay open when their blocks are freed: what they keep is ours, not the allocator's.
    let grown = apart(now) - apart(before) - now.slots.saturating_sub(before.slots) as f64;
    let live = (now.requested as f64 - before.requested as f64).max(0.0) * ROUNDING;
    // Memory that was requested before the window and touched in it is no mystery either.
    let beyond_live = apart(now) - now.requested as f64;
    let bytes = (grown - live).min(beyond_live);
    if bytes < LEAST_BYTES || bytes < grown / 2.0 || bytes * 100.0 < threshold_percent * before.resident as f64 {
        return None;
    }
    Some(Unexplained { bytes, cause: cause(before, now, said, bytes) })
}

fn cause(before: &Moment, now: &Moment, said: &[Said], bytes: f64) -> MemoryCause {
    let window = now.at_ns.saturating_sub(before.at_ns) as f64;
    let near = |said: &&Said, moment: &Moment| {
        (said.at.at_ns.abs_diff(moment.at_ns) as f64) <= (window * BRACKET_SHARE).max(BRACKET_NS)
    };
    let distance = |said: &&Said| said.at.at_ns.abs_diff(before.at_ns);
    let Some(last) = said.last().filter(|said| near(said, now)) else { return MemoryCause::RetentionOrOutside };
    let outside = |foreign: f64| {
        if foreign >= bytes / 2.0 { MemoryCause::ForeignAllocations } else { MemoryCause::OutsideAllocator }
    };
    let first = said.iter().filter(|one| one.at.at_ns < last.at.at_ns && near(one, before)).min_by_key(distance);
    match first {
        Some(first) if last.kept() - first.kept() >= bytes / 2.0 => MemoryCause::AllocatorRetention,
        Some(first) => outside(last.foreign() - first.foreign()),
        // All that it keeps is too little, whenever it began to keep it.
        None if last.kept() < bytes / 2.0 => outside(0.0),
        None => MemoryCause::RetentionOrOutside,
    }
}

impl Unexplained {
    /// One sentence or two: what was seen, what it is, what to do.
    pub(super) fn advice(&self, allocator: Option<&str>) -> String {
        let seen = format!("Resident memory grew by {:.1} MB while live bytes did not", self.bytes / 1e6);
        match self.cause {
            MemoryCause::AllocatorRetention => {
                let remedy = match allocator {
                    Some("jemalloc") => {
                        "Set `dirty_decay_ms` and `background_thread`, or use fewer arenas (`narenas`)."
                    }
                    _ => "Call `malloc_trim`, set MALLOC_ARENA_MAX, or wrap jemalloc or mimalloc.",
                };
                format!("{seen}: allocator retention, not a leak. The allocator keeps what was freed. {remedy}")
            }
            MemoryCause::ForeignAllocations => format!(
                "{seen}, and the allocator has as much more allocated: memory outside the Rust allocator, by C libraries' \
                 malloc. Look there."
            ),
            MemoryCause::OutsideAllocator => format!(
                "{seen}, and the allocator keeps no more than before: memory outside the Rust allocator (mappings, \
                 stacks of threads, or a C library's own allocator). Look in /proc/PID/smaps."
            ),
            MemoryCause::RetentionOrOutside => format!(
                "{seen}: either the allocator keeps freed memory (set its decay, trim, or use fewer arenas), or C \
                 libraries and mappings hold it. Its statistics would tell: ask for a report while the process runs."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;
    const S: u64 = 1_000_000_000;

    fn at(seconds: u64, requested: u64, resident: u64) -> Moment {
        Moment { at_ns: seconds * S, requested: requested * MB, resident: resident * MB, own: 5 * MB, slots: 0 }
    }

    fn said(at: Moment, allocated: u64, held: u64) -> Said {
        Said { at, allocated: allocated * MB, held: held * MB }
    }

    fn cause_of(before: Moment, now: Moment, said: &[Said]) -> Option<MemoryCause> {
        unexplained(&before, &now, said, 5.0).map(|found| found.cause)
    }

    #[test]
    fn what_the_allocator_keeps_is_retention() {
        let (before, now) = (at(0, 100, 120), at(600, 102, 320));
        let answers = [said(before, 105, 110), said(now, 107, 310)];
        assert_eq!(cause_of(before, now, &answers), Some(MemoryCause::AllocatorRetention));
    }

    #[test]
    fn what_the_allocator_does_not_know_is_outside() {
        let (before, now) = (at(0, 100, 120), at(600, 100, 320));
        let mapped = [said(before, 105, 110), said(now, 105, 110)];
        assert_eq!(cause_of(before, now, &mapped), Some(MemoryCause::OutsideAllocator));
        let by_malloc = [said(before, 105, 110), said(now, 305, 310)];
        assert_eq!(cause_of(before, now, &by_malloc), Some(MemoryCause::ForeignAllocations));
        // One answer is enough where all that is kept is less than what grew.
        assert_eq!(cause_of(before, now, &mapped[1..]), Some(MemoryCause::OutsideAllocator));
    }

    #[test]
    fn without_answers_for_the_window_neither_is_claimed() {
        let (before, now) = (at(4000, 100, 120), at(4600, 100, 320));
        let either = Some(MemoryCause::RetentionOrOutside);
        assert_eq!(cause_of(before, now, &[]), either);
        // An old answer says nothing of now.
        assert_eq!(cause_of(before, now, &[said(at(0, 100, 120), 105, 110)]), either);
        // What it keeps now it may have kept for an hour.
        assert_eq!(cause_of(before, now, &[said(at(0, 1, 2), 1, 2), said(now, 105, 310)]), either);
    }

    #[test]
    fn a_leak_a_small_change_and_late_touching_are_no_mystery() {
        let answers = |now| [said(at(0, 100, 120), 105, 110), said(now, 105, 310)];
        let leak = at(600, 300, 330);
        assert_eq!(cause_of(at(0, 100, 120), leak, &answers(leak)), None);
        let small = at(600, 100, 125);
        assert_eq!(cause_of(at(0, 100, 120), small, &answers(small)), None);
        // A gigabyte that was requested at the start and is touched bit by bit.
        assert_eq!(cause_of(at(0, 1000, 120), at(600, 1000, 900), &[]), None);
        // The profiler's own growth.
        let now = Moment { own: 205 * MB, ..at(600, 100, 320) };
        assert_eq!(cause_of(at(0, 100, 120), now, &[]), None);
        // Slots that stay open, as exact mode's do.
        let now = Moment { slots: 200 * MB, ..at(600, 100, 320) };
        assert_eq!(cause_of(at(0, 100, 120), now, &[]), None);
        // Nothing was read.
        assert_eq!(cause_of(at(0, 100, 0), now, &[]), None);
    }
}
