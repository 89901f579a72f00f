//! Stand-in for `zone.rs` without the feature `zones`: there is no zone.

use super::word::Time;

/// A zone. It has no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Zone {}

impl Zone {
    pub fn named(name: &str) -> Result<Self, String> {
        Err(format!("`{name}` is not to be had: enable the cargo feature `zones` of tallystone"))
    }

    pub fn name(self) -> &'static str {
        match self {}
    }

    pub fn rules(self) -> String {
        match self {}
    }

    pub fn later(self, _: Time, _: u32, _: u32) -> Time {
        match self {}
    }

    pub fn day(self, _: Time) -> i64 {
        match self {}
    }

    pub fn month(self, _: Time) -> i64 {
        match self {}
    }

    pub fn day_start(self, _: i64) -> Time {
        match self {}
    }

    pub fn month_start(self, _: i64) -> Time {
        match self {}
    }
}
