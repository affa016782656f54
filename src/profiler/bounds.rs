//! Which scopes exceed their stated bounds, epoch by epoch, as whoever listens is told of it.
//!
//! A scope's news begin when the lower end of what it holds exceeds the bound: each call chain that holds it is then a
//! leak. They go on when another chain comes to hold it, and when what it holds has doubled since it was last told
//! (worsened). They end when it keeps its bound again: clearly (by a tenth), or for a minute's worth of epochs, so that a
//! scope that hovers about its bound is no stream of news. Pure: fed with pictures, keeps a few words a scope.

use std::collections::{HashMap, HashSet};

use super::leaks::VerdictKind;
use crate::report::Snapshot;
use crate::store::picture::Picture;
use crate::units::StackId;

/// Epochs within its bound after which a scope that is not clearly within it is.
const CALM_EPOCHS: u32 = 12;
/// Clearly within: this share of the bound.
const CLEAR_SHARE: f64 = 0.9;
/// Told again when what it holds has grown by this factor.
const WORSE_FACTOR: f64 = 2.0;

/// A call chain's part in a scope that exceeds its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BoundChange {
    pub(super) stack: StackId,
    pub(super) kind: VerdictKind,
}

/// What was told of one scope.
#[derive(Debug, Default)]
struct Told {
    stacks: HashSet<StackId>,
    live_bytes: f64,
    calm_epochs: u32,
}

/// What was told of all scopes.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    told: HashMap<u32, Told>,
}

impl Bounds {
    /// The news of the epoch that ended.
    pub(super) fn look(&mut self, picture: Box<Picture>) -> Vec<BoundChange> {
        let snapshot = Snapshot::from_picture(*picture);
        let mut news = Vec::new();
        for scope in snapshot.scopes() {
            let live = scope.live_bytes();
            if scope.exceeds_its_bound() {
                let told = self.told.entry(scope.number).or_default();
                told.calm_epochs = 0;
                let is_worse = told.live_bytes > 0.0 && live.low >= WORSE_FACTOR * told.live_bytes;
                for site in snapshot.sites().map(|site| site.picture()) {
                    let is_known = !site.tainted && !site.folded;
                    if !is_known || !site.scopes.contains(&scope.number) || !scope.is_held_by(&site.figures.live) {
                        continue;
                    }
                    if told.stacks.insert(site.stack) {
                        news.push(BoundChange { stack: site.stack, kind: VerdictKind::Leak });
                    } else if is_worse {
                        news.push(BoundChange { stack: site.stack, kind: VerdictKind::Worsened });
                    }
                }
                if is_worse || told.live_bytes == 0.0 {
                    told.live_bytes = live.low;
                }
                continue;
            }
            let Some(told) = self.told.get_mut(&scope.number) else { continue };
            told.calm_epochs += 1;
            #[expect(clippy::cast_precision_loss, reason = "compared with an estimate")]
            let is_clear = live.low <= CLEAR_SHARE * scope.max_bytes() as f64;
            if is_clear || told.calm_epochs >= CALM_EPOCHS {
                let stacks = self.told.remove(&scope.number).map(|told| told.stacks).unwrap_or_default();
                let mut stacks: Vec<StackId> = stacks.into_iter().collect();
                stacks.sort_unstable();
                news.extend(stacks.into_iter().map(|stack| BoundChange { stack, kind: VerdictKind::Withdrawn }));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::synthetic::Builder;
    use crate::store::picture::ScopePicture;
    use crate::units::FrameKey;

    /// A scope `cache` of at most 1,000 bytes, in which two chains hold so many blocks of 100.
    fn holding(first: u64, second: u64) -> Box<Picture> {
        let mut builder = Builder::new(0);
        builder.picture.scopes =
            vec![ScopePicture::default(), ScopePicture { name: "cache".into(), bound_bytes: 1000 }];
        for (frame, blocks) in [(1, first), (2, second)] {
            builder.site(&[FrameKey(frame)], 100, blocks, 5).scopes = [1].into();
        }
        Box::new(builder.picture)
    }

    fn kinds(news: &[BoundChange]) -> Vec<VerdictKind> {
        news.iter().map(|change| change.kind).collect()
    }

    #[test]
    fn begins_worsens_and_is_withdrawn() {
        use VerdictKind::{Leak, Withdrawn, Worsened};
        let mut bounds = Bounds::default();
        assert_eq!(bounds.look(holding(9, 0)), [], "within");
        assert_eq!(kinds(&bounds.look(holding(11, 0))), [Leak]);
        assert_eq!(bounds.look(holding(12, 0)), [], "once");
        assert_eq!(kinds(&bounds.look(holding(12, 6))), [Leak], "another chain came to hold it");
        assert_eq!(kinds(&bounds.look(holding(16, 6))), [Worsened, Worsened], "twice the 1,100 bytes");
        assert_eq!(kinds(&bounds.look(holding(2, 0))), [Withdrawn, Withdrawn]);
        assert_eq!(bounds.look(holding(2, 0)), []);
        assert_eq!(kinds(&bounds.look(holding(11, 0))), [Leak], "it begins anew");
    }

    #[test]
    fn a_scope_that_hovers_about_its_bound_is_no_stream_of_news() {
        let mut bounds = Bounds::default();
        let news: Vec<_> = (0..100).flat_map(|round| bounds.look(holding(10 + round % 2, 0))).collect();
        assert_eq!(kinds(&news), [VerdictKind::Leak]);
        let calm: Vec<_> = (0..CALM_EPOCHS).map(|_| bounds.look(holding(10, 0)).len()).collect();
        assert_eq!(calm.iter().sum::<usize>(), 1, "withdrawn after a while within it: {calm:?}");
        assert_eq!(calm.last(), Some(&1).filter(|_| calm.iter().take(calm.len() - 1).all(|&n| n == 0)));
    }
}
