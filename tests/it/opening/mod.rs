//! Opening a store: with other code, with a tail that is gone, cut at any operation.

mod codes;
mod mixtures;
mod segments;
mod sweep;
mod tails;
