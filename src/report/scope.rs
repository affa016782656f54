//! What is live in each declared scope, over all of its sites.
//!
//! A site in scopes within each other counts in each of them. The amounts of a scope's sites are added before an interval is
//! made of them, so that it is as narrow as the samples allow.

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::estimate::Estimate;
use super::snapshot::{Snapshot, add};
use crate::store::picture::{Amount, ScopePicture};

/// A scope of [`bounded`](crate::bounded), and what is live in it.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    snapshot: &'a Snapshot,
    picture: &'a ScopePicture,
    /// Its number.
    pub(crate) number: u32,
    live: Amount,
    total: Amount,
    /// Of sites whose records are all there.
    certain: Amount,
    /// The largest of its sites, in fixed-point bytes.
    largest: u64,
}

impl<'a> Scope<'a> {
    /// Its name; of very long ones the first 112 bytes.
    pub fn name(&self) -> &'a str {
        &self.picture.name
    }

    /// The most bytes that it may hold, as it was last declared.
    pub fn max_bytes(&self) -> u64 {
        self.picture.bound_bytes
    }

    /// Bytes live of what was allocated in it, in all threads.
    pub fn live_bytes(&self) -> Estimate {
        self.snapshot.bytes(&self.live)
    }

    /// Blocks live of what was allocated in it.
    pub fn live_blocks(&self) -> Estimate {
        Estimate::blocks(&self.live, self.snapshot.unseen(&self.total))
    }

    /// It certainly holds more than it may: by the lower end of the interval, sites whose records were lost left out.
    pub fn exceeds_its_bound(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "compared with an estimate")]
        let bound = self.picture.bound_bytes as f64;
        self.snapshot.bytes(&self.certain).low > bound
    }

    /// Is a site of this amount one of those that hold what the scope holds? A twentieth of it, or the largest there is.
    pub(crate) fn is_held_by(&self, live: &Amount) -> bool {
        live.bytes > 0 && live.bytes >= (self.live.bytes / 20).min(self.largest)
    }
}

/// The scopes of a snapshot that have a name.
pub(crate) fn all(snapshot: &Snapshot) -> std::vec::IntoIter<Scope<'_>> {
    let empty = |(picture, number)| Scope {
        snapshot,
        picture,
        number,
        live: Amount::default(),
        total: Amount::default(),
        certain: Amount::default(),
        largest: 0,
    };
    let mut scopes: Vec<Scope<'_>> = snapshot.picture.scopes.iter().zip(0u32..).map(empty).collect();
    for site in &snapshot.picture.sites {
        let figures = &site.figures;
        for (i, &number) in site.scopes.iter().enumerate() {
            // A scope within itself holds its blocks once.
            let again = site.scopes.iter().take(i).any(|&before| before == number);
            let Some(scope) = scopes.get_mut(number as usize).filter(|_| !again) else { continue };
            add(&mut scope.live, &figures.live);
            add(&mut scope.total, &figures.total);
            scope.largest = scope.largest.max(figures.live.bytes);
            if !site.tainted && !site.folded {
                add(&mut scope.certain, &figures.live);
            }
        }
    }
    scopes.retain(|scope| !scope.picture.name.is_empty());
    scopes.into_iter()
}

impl Serialize for Scope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Scope", 4)?;
        out.serialize_field("name", self.name())?;
        out.serialize_field("max_bytes", &self.max_bytes())?;
        out.serialize_field("live_bytes", &self.live_bytes())?;
        out.serialize_field("live_blocks", &self.live_blocks())?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::synthetic::Builder;
    use crate::units::FrameKey;

    fn scope(name: &str, bound_bytes: u64) -> ScopePicture {
        ScopePicture { name: name.into(), bound_bytes }
    }

    #[test]
    fn a_scope_is_the_sum_of_its_sites_each_counted_once() {
        let mut builder = Builder::new(0);
        builder.picture.scopes = vec![ScopePicture::default(), scope("outer", 1000), scope("inner", 499)];
        for (size, scopes) in [(100, &[1][..]), (500, &[2, 1]), (7, &[]), (50, &[1, 70, 1])] {
            builder.site(&[FrameKey(size)], size, 1, 0).scopes = scopes.into();
        }
        let lost = builder.site(&[FrameKey(1)], 10_000, 1, 0);
        (lost.scopes, lost.tainted) = ([1].into(), true);
        let snapshot = Snapshot::from_picture(builder.picture);
        let found: Vec<_> =
            snapshot.scopes().map(|s| (s.name(), s.live_bytes().value, s.exceeds_its_bound())).collect();
        assert_eq!(found, [("outer", 10_650.0, false), ("inner", 500.0, true)]);
        let outer = snapshot.scopes().next().expect("two");
        assert_eq!((outer.max_bytes(), outer.live_blocks().value), (1000, 4.0));
        let held_by = |site: usize| outer.is_held_by(&snapshot.picture.sites[site].figures.live);
        assert_eq!([0, 1, 3, 4].map(held_by), [false, false, false, true]);
        let names: Vec<Vec<&str>> = snapshot.sites().map(|site| site.scopes().collect()).collect();
        assert_eq!(names, [&["outer"][..], &["inner", "outer"], &[], &["outer", "outer"], &["outer"]]);
    }
}
