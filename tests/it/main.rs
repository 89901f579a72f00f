//! Tests of the store from outside, a module for each subject: `cargo test --test it alerts::` runs those of one.
//!
//! One binary, because each further one compiles and links the store's generic code again.

mod elle;
mod matrix;
mod naive;
mod support;

mod acceptance;
mod alerts;
mod audit;
mod bad_input;
mod behind;
mod calendar;
mod cancelled_but_billing;
mod checks;
mod checks_agree;
mod checks_naive;
mod checks_oracles;
mod checks_restart;
mod checks_rows;
mod checks_threads;
#[cfg(unix)]
mod conformance;
mod dcb;
mod dcb_examples;
mod desk;
mod elle_checker;
mod environment;
mod errors;
mod events;
mod foreign;
mod freshness;
#[cfg(unix)]
mod git_audit;
mod guards;
mod guards_agree;
mod hermitage;
mod inspect;
mod kill;
mod opening;
mod outside;
mod outside_files;
mod own_events;
mod postgres_specs;
mod retention;
mod risks;
mod rot;
mod rule_folders;
mod rules;
mod rules_rows;
mod serializability;
mod simulation;
mod subscriptions;
mod transaction_risks;
mod transactions;
mod trials;
mod types;
mod upcasts;
mod worker;
