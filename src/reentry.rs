//! Re-entrancy: marks a thread that runs code of the user from inside a call of the store.
//!
//! A fold is a function of an event and of rows, a guard one of events. Both run where a commit is decided, so a call of a store
//! from inside one would wait for itself, or read what no refold reads. Such a call is refused at once, whichever store it asks.

use crate::sync::thread_local;
use std::cell::Cell;

/// Code of the user, or a call that runs some, that a thread is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    /// The fold of a projection.
    Fold(&'static str),
    /// The closures of guards, or of invariants.
    Guard,
    /// `verify` or `audit`, which tell their progress.
    Verify,
    /// `recover`, which tells its progress.
    Recovery,
}

thread_local! {
    static INSIDE: Cell<Option<Inside>> = const { Cell::new(None) };
}

/// Scope of a mark: the thread is marked as long as this lives; then the mark before it is restored.
pub(crate) struct Entered(Option<Inside>);

pub(crate) fn enter(inside: Inside) -> Entered {
    Entered(INSIDE.with(|cell| cell.replace(Some(inside))))
}

impl Drop for Entered {
    fn drop(&mut self) {
        INSIDE.with(|cell| cell.set(self.0));
    }
}

/// Returns the fold or guard that the thread is inside of, in words; `None` if it is in neither.
pub(crate) fn fold() -> Option<String> {
    match INSIDE.with(Cell::get)? {
        inside @ (Inside::Fold(_) | Inside::Guard) => Some(inside.in_words()),
        Inside::Verify | Inside::Recovery => None,
    }
}

/// Returns whatever the thread is inside of, in words.
pub(crate) fn any() -> Option<String> {
    INSIDE.with(Cell::get).map(Inside::in_words)
}

impl Inside {
    fn in_words(self) -> String {
        match self {
            Self::Fold(projection) => format!("the fold of projection `{projection}`"),
            Self::Guard => "a guard or an invariant".to_owned(),
            Self::Verify => "verify() or audit()".to_owned(),
            Self::Recovery => "recover()".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_mark_restores_outer_mark() {
        let outer = enter(Inside::Verify);
        let fold_of = |name| enter(Inside::Fold(name));
        let inner = fold_of("balances");
        assert_eq!(fold().as_deref(), Some("the fold of projection `balances`"));
        drop(inner);
        assert_eq!((fold(), any().as_deref()), (None, Some("verify() or audit()")));
        drop(outer);
        assert_eq!(any(), None);
        assert!(
            std::panic::catch_unwind(|| {
                let _fold = fold_of("panics");
                panic!("a fold");
            })
            .is_err()
        );
        assert_eq!(any(), None, "a panic ends it too");
    }
}
