//! Progress of routes: how far each has delivered notices, and which incidents it was told of. Rows of the store's own events.

use crate::own::Own;
use crate::projection::{Folded, Projection, Rows};
use serde::{Deserialize, Serialize};

/// Rows of [`Routed`]: of a route alone the position of the last notice that it has taken; of a route and a group that the route was
/// told of it, and not of its end.
pub(crate) struct Routed;

/// Key of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum RoutedKey {
    Route(String),
    Told(String, u64),
}

impl Projection for Routed {
    const NAME: &'static str = "tallystone.routed";
    type Event = Own;
    type Key = RoutedKey;
    type Row = u64;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        let (route, through, group, is_over) = match event {
            Own::Routed { route, after } => return rows.put(RoutedKey::Route(route.clone()), *after),
            Own::Delivered { route, through, group, is_over } => (route, through, group, is_over),
            _ => return Ok(()),
        };
        rows.put(RoutedKey::Route(route.clone()), *through)?;
        match (*group, is_over) {
            (0, _) => Ok(()),
            (group, false) => rows.put(RoutedKey::Told(route.clone(), group), *through),
            (group, true) => rows.remove(&RoutedKey::Told(route.clone(), group)),
        }
    }
}
