//! An event without content, for tests of requests.

use crate::event::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(super) struct Asked {}

impl Event for Asked {
    const FAMILY: &'static str = "asked";
    type Id = ();
    fn id(&self) {}
}
