//! What a profile says: pure queries over a decoded store.
//!
//! A `Snapshot` is one picture of a store with its symbols, resolved at the first question that needs names. It
//! never changes, never looks at the running profiler, and can be sent to and shared between threads. Estimates
//! carry their 95% interval; exact figures are plain integers.
//!
//! | file | question |
//! |---|---|
//! | `snapshot`, `facts`, `site` | what was recorded, how, and what was lost |
//! | `estimate`, `gamma` | how sure is an estimate |
//! | `symbolize`, `module_file`, `frame` | which function is this address |
//! | `trim`, `points` | which frames to show, and which sites are then one |
//! | `scope` | what is live in a declared scope |
//! | `diff` | what changed between two snapshots |
//! | `summary`, `leaks`, `name`, `chain`, `text` | the same for people, on a page |

mod chain;
mod common;
mod diff;
mod estimate;
mod facts;
pub(crate) mod frame;
mod gamma;
mod leaks;
mod module_file;
mod name;
pub(crate) mod points;
mod scope;
mod site;
pub(crate) mod snapshot;
mod stored;
pub(crate) mod summary;
mod symbolize;
#[cfg(any(test, feature = "_synthetic"))]
pub(crate) mod synthetic;
mod text;
pub(crate) mod trim;

pub(crate) use chain::{functions, is_shared_pointer, short_chain};
pub(crate) use common::common;
pub use diff::{Diff, SiteDiff};
pub use estimate::Estimate;
pub use facts::{HistoryPoint, Losses, Mode, Module, ProcessState, SizeClass, Totals};
pub use frame::{Frame, Frames};
pub use scope::Scope;
pub use site::Site;
pub use snapshot::Snapshot;
pub use stored::Store;
pub(crate) use symbolize::owners;
pub(crate) use trim::Trim;
