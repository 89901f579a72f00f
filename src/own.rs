//! Events of the store's own, in the log among all others. Their family's name is taken.

use crate::event::Event;
use serde::{Deserialize, Serialize};

/// An event of the store's own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Own {
    /// A flag was taken.
    Once { flag: String },
}

impl Event for Own {
    const FAMILY: &'static str = "tallystone";
    type Id = String;

    fn id(&self) -> String {
        let Self::Once { flag } = self;
        flag.clone()
    }
}
