//! Which stack is expected at a place: the one that came after the last there, unless a chain of surprises says another.
//!
//! Promises: what is expected is proved as any other stack is (`Pages::recall`), so a wrong expectation costs time and nothing
//! else. Who is expected rightly at a place, and has nothing to learn, touches nothing here.
//!
//! Each place knows what came after its last stack. Where a program does the same work from here and from there in turn (a server's
//! worker polls a task that it woke itself, or one that it stole), each of the work's places is wrong once whenever it changes.
//! But the surprises come in the same order each time: so each is remembered as the one after the last, and once two have
//! followed each other twice, the first lets the second be expected at its place: a change costs one surprise, and not one a
//! place.
//! Source: a Markov predictor (Joseph and Grunwald, ISCA 1997) of each place, and one of the first one's misses.

use super::{Answer, EXPECTED, NODES, Node, Pages};

/// What is known of the order of surprises. Zeroed is nothing.
#[repr(C)]
pub(super) struct Foresight {
    links: [Link; NODES],
    /// By place: 1 + the index of the stack whose link has put there what is expected; 0: the place's own order has.
    put_by: [u16; EXPECTED],
    /// 1 + the index of the last surprise; 0: none.
    last: u16,
}

/// Of a stack: the surprise after it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Link {
    /// 1 + its index; 0: none is known.
    then: u16,
    /// The stack's own place.
    place: u8,
    /// How often it was so, less what a mistake costs; above 0 it is followed.
    trust: i8,
}

const _: () = assert!(EXPECTED <= 1 << u8::BITS, "a place is a byte");

/// A link that was followed and wrong is not followed for so many surprises after its stack, and not replaced either: it may be one
/// that does come each time, but after its place was visited for something else. One that was right often enough before is
/// followed on.
const COST_OF_A_MISTAKE: i8 = 32;
const MOST_TRUST: i8 = 63;

/// Expected already, stacks of a chain are passed over; so many at once.
const MOST_PASSED: usize = 8;

impl Foresight {
    /// There is a new stack of this index, at this place.
    #[expect(clippy::cast_possible_truncation, reason = "as asserted")]
    pub(super) fn begin(&mut self, index: u16, place: usize) {
        self.links[usize::from(index) % NODES] = Link { then: 0, place: place as u8, trust: 0 };
    }

    /// All stacks are gone.
    pub(super) fn forget(&mut self) {
        self.last = 0;
    }

    /// The stack of this index is a surprise, and came after the last one.
    fn link(&mut self, to: u16) {
        if let Some(last) = self.last.checked_sub(1) {
            let link = &mut self.links[usize::from(last) % NODES];
            if link.then == to + 1 || link.trust < 0 {
                link.trust = (link.trust + 1).min(MOST_TRUST);
            } else if link.trust > 0 {
                link.trust -= 1;
            } else {
                (link.then, link.trust) = (to + 1, 0);
            }
        }
        self.last = to + 1;
    }

    /// The surprise after this stack, and its place, where that is sure.
    fn after(&self, index: u16) -> Option<(u16, usize)> {
        let link = self.links[usize::from(index) % NODES];
        let then = link.then.checked_sub(1).filter(|_| link.trust > 0)?;
        let place = self.links[usize::from(then) % NODES].place;
        // Its own place's order is what that knows itself.
        (place != link.place).then_some((then, usize::from(place) % EXPECTED))
    }
}

impl Pages {
    /// The expected stack came, and there is something to be done: on to the one after it.
    #[inline(never)]
    pub(super) fn move_on(&mut self, sp: u64) -> Answer {
        let (at, _) = self.place_of(sp);
        let Node { own, before, answer, .. } = self.expected[at];
        if self.foresight.put_by[at] != 0 {
            self.surprised(at, own);
        } else {
            self.nodes[usize::from(before) % NODES].is_doubted = false;
            self.expect_after(at, own);
        }
        answer
    }

    /// The stack of this index came, and another was expected.
    pub(super) fn learn(&mut self, at: usize, own: u16) {
        if self.expected[at].from == self.life
            && let Some(by) = std::mem::take(&mut self.foresight.put_by[at]).checked_sub(1)
        {
            let link = &mut self.foresight.links[usize::from(by) % NODES];
            link.trust = link.trust.saturating_sub(COST_OF_A_MISTAKE);
        }
        self.surprised(at, own);
    }

    /// The stack of this index came, which its place by itself may not have expected.
    fn surprised(&mut self, at: usize, own: u16) {
        let expected = &self.expected[at];
        if expected.from == self.life {
            let before = &mut self.nodes[usize::from(expected.before) % NODES];
            if before.next == own {
                before.is_doubted = false;
            } else {
                if before.is_doubted {
                    before.next = own;
                }
                before.is_doubted = !before.is_doubted;
            }
        }
        self.expect_after(at, own);
        self.foresight.link(own);
        self.foresee(own);
    }

    /// The node of this index is the last that came at this place.
    #[inline(always)]
    fn expect_after(&mut self, at: usize, last: u16) {
        let (next, is_doubted) = {
            let last = &self.nodes[usize::from(last) % NODES];
            (last.next, last.is_doubted)
        };
        let node = self.nodes[usize::from(next) % NODES];
        let moves_on = is_doubted || node.next != node.own;
        self.expected[at] = Node { from: self.life, before: last, moves_on, ..node };
        self.foresight.put_by[at] = 0;
    }

    /// Lets the surprise after this stack be expected; what is expected anyway is passed over.
    fn foresee(&mut self, after: u16) {
        let mut after = after;
        for _ in 0..MOST_PASSED {
            let Some((then, at)) = self.foresight.after(after) else { return };
            let expected = &mut self.expected[at];
            let is_of_life = expected.from == self.life;
            if is_of_life && expected.own == then {
                self.foresight.last = then + 1;
                after = then;
                continue;
            }
            let node = &self.nodes[usize::from(then) % NODES];
            if !node.lives(self.life) {
                return;
            }
            let before = if is_of_life { expected.before } else { then };
            *expected = Node { from: self.life, before, moves_on: true, ..*node };
            self.foresight.put_by[at] = after + 1;
            return;
        }
    }
}
