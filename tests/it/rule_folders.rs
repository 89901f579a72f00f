//! Folders of rules, from the outside: what is put there runs, and what cannot be read is never silently absent.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tallystone::check::{About, Severity};
use tallystone::disk::{Disk, Platform};
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, SimClock, SimDisk};
use tallystone::watch::{Notification, RuleFile, State};

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Order {
    Placed { order: u32 },
    Paid { order: u32 },
    Shipped { order: u32 },
}

impl Event for Order {
    const FAMILY: &'static str = "order";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Placed { order } | Self::Paid { order } | Self::Shipped { order }) = self;
        *order
    }
}

/// Before each B an A.
fn rule(id: &str, before: &str, owner: &str) -> String {
    format!(
        r#"
        [check.{id}]
        kind = "precedence"
        when = "order.{before}"
        then = "order.Shipped"
        {owner}
        severity = "ticket"
        means = "We shipped too early."
        remedy = "1 ask the customer"
        "#
    )
}

fn owned(id: &str, before: &str) -> String {
    rule(id, before, "owner = \"warehouse\"")
}

type Alerts = std::sync::mpsc::Receiver<Notification>;

/// A folder on a disk, and a store that reads it by a clock that only the test moves.
struct Bench {
    disk: SimDisk,
    clock: SimClock,
    store: Store,
    alerts: Alerts,
}

const FOLDER: &str = "/rules";
const STORE: &str = "/store";
const PERIOD: Duration = Duration::from_secs(10);

impl Bench {
    fn on(disk: &SimDisk, clock: &SimClock, more: impl FnOnce(Setup) -> Setup) -> Self {
        let (told, alerts) = std::sync::mpsc::channel();
        let platform =
            Platform { disk: Arc::new(disk.clone()), clock: Arc::new(clock.clone()), ..Platform::real() };
        let setup = Setup::new().events::<Order>().platform(platform).lockstep().check_folder(FOLDER);
        let setup = setup.alerts(move |alert| told.send(alert.clone()).expect("the test listens"));
        let store = Store::open_or_create(STORE, more(setup)).expect("it opens");
        Self { disk: disk.clone(), clock: clock.clone(), store, alerts }
    }

    fn new(files: &[(&str, &str)]) -> Self {
        let (disk, clock) = (SimDisk::new(1), SimClock::default());
        disk.create_dir(Path::new(FOLDER)).expect("nothing is there");
        for (name, text) in files {
            disk.write_file(Path::new(FOLDER).join(name), text.as_bytes());
        }
        Self::on(&disk, &clock, |setup| setup)
    }

    fn reopen(self) -> Self {
        self.store.close();
        Self::on(&self.disk, &self.clock, |setup| setup)
    }

    fn write(&self, name: &str, text: &str) {
        self.disk.write_file(at(name), text.as_bytes());
    }

    fn append(&self, event: Order) -> Position {
        self.store.append(Append::event(event)).expect("it is taken").receipt.last
    }

    /// Lets a time pass, and all that comes of it.
    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        for _ in 0..16 {
            self.store.step();
        }
    }

    fn open(&self) -> Vec<(String, Option<String>)> {
        let open = self.store.checks().open().expect("rows are read");
        open.into_iter().map(|violation| (violation.check, violation.subject)).collect()
    }

    fn rules(&self) -> Vec<RuleFile> {
        self.store.checks().rules()
    }

    fn told(&self) -> Vec<Notification> {
        self.alerts.try_iter().collect()
    }
}

fn at(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn file(name: &str) -> (String, Option<String>) {
    ("tallystone.rules".to_owned(), Some(at(name).display().to_string()))
}

fn seen(check: &str) -> (String, Option<String>) {
    (check.to_owned(), None)
}

#[test]
fn row_000_21_file_added_to_folder_runs_automatically() {
    let bench = Bench::new(&[]);
    let early = bench.append(Order::Shipped { order: 1 });
    bench.pass(PERIOD);
    assert_eq!((bench.rules(), bench.open()), (vec![], vec![]));

    bench.write("hourly/folder.toml", "period = \"1h\"\nowner = \"warehouse\"");
    bench.write("hourly/orders.toml", &rule("paid-first", "Paid", ""));
    bench.pass(PERIOD);
    // What was there before the rule is judged by it, too.
    assert_eq!(bench.open(), [seen("paid-first")]);
    assert_eq!(bench.store.checks().of("paid-first").expect("rows are read")[0].activation, early);
    bench.append(Order::Shipped { order: 2 });
    bench.pass(Duration::ZERO);
    assert_eq!(bench.open().len(), 2);

    let [listed] = &bench.rules()[..] else { panic!("one file is listed") };
    assert_eq!(
        (
            listed.file.clone(),
            listed.group.as_str(),
            &listed.checks[..],
            listed.period,
            listed.error.as_ref()
        ),
        (at("hourly/orders.toml"), "hourly", &["paid-first".to_owned()][..], Duration::from_secs(3600), None)
    );
    let violation = bench.store.checks().open().expect("rows are read").remove(0);
    assert_eq!(bench.store.checks().explain(&violation).expect("its events are read").owner, "warehouse");
}

#[test]
fn removed_file_ends_checks_and_retires_violations() {
    let bench = Bench::new(&[("orders.toml", &owned("paid-first", "Paid"))]);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(Duration::ZERO);
    assert_eq!(bench.open(), [seen("paid-first")]);
    bench.disk.remove(&at("orders.toml")).expect("it is there");
    bench.pass(PERIOD);
    bench.append(Order::Shipped { order: 2 });
    bench.pass(PERIOD);
    assert_eq!((bench.open().len(), bench.store.checks().stats().len(), bench.rules().len()), (0, 0, 0));
    let found = bench.store.checks().of("paid-first").expect("rows are read");
    assert!(matches!(&found[..], [one] if matches!(one.state, State::Retired { .. })), "{found:?}");
    // When the file comes back all is judged, and is open again.
    bench.write("orders.toml", &owned("paid-first", "Paid"));
    bench.pass(PERIOD);
    let found = bench.store.checks().of("paid-first").expect("rows are read");
    assert_eq!(found.iter().map(|one| &one.state).collect::<Vec<_>>(), [&State::Open; 2]);
}

#[test]
fn row_000_20_files_are_read_once_per_folder_period() {
    let bench = Bench::new(&[
        ("fast/folder.toml", "period = \"1s\""),
        ("fast/a.toml", &owned("a", "Paid")),
        ("slow/folder.toml", "period = \"1h\""),
        ("slow/b.toml", &owned("b", "Paid")),
    ]);
    let what = |bench: &Bench| -> Vec<Option<String>> {
        bench.rules().iter().map(|file| file.error.as_ref().map(|error| error.what.clone())).collect()
    };
    bench.write("fast/a.toml", "mist");
    bench.write("slow/b.toml", "mist");
    bench.pass(Duration::from_millis(999));
    assert_eq!(what(&bench), [None, None]);
    bench.pass(Duration::from_millis(1));
    assert!(matches!(&what(&bench)[..], [Some(_), None]), "{:?}", what(&bench));
    bench.pass(Duration::from_secs(3598));
    assert!(matches!(&what(&bench)[..], [Some(_), None]), "{:?}", what(&bench));
    bench.pass(Duration::from_secs(1));
    assert!(matches!(&what(&bench)[..], [Some(_), Some(_)]), "{:?}", what(&bench));
    let periods: Vec<_> = bench.rules().iter().map(|file| file.period.as_secs()).collect();
    assert_eq!(periods, [1, 3600]);
}

#[test]
fn row_000_21_moved_file_takes_new_folder_settings() {
    let bench = Bench::new(&[
        ("daily/folder.toml", "period = \"1d\"\nowner = \"day shift\""),
        ("hourly/folder.toml", "period = \"1h\"\nowner = \"night shift\""),
        ("daily/orders.toml", &rule("paid-first", "Paid", "")),
    ]);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(Duration::ZERO);
    let definition = bench.store.checks().stats()[0].definition;
    bench.disk.rename(&at("daily/orders.toml"), &at("hourly/orders.toml")).expect("it is there");
    bench.pass(Duration::from_secs(3600));
    let [listed] = &bench.rules()[..] else { panic!("one file is listed") };
    assert_eq!((listed.group.as_str(), listed.period.as_secs()), ("hourly", 3600));
    let stats = &bench.store.checks().stats()[0];
    assert_eq!((stats.definition, stats.activations, stats.violated), (definition, 1, 1));
    let violation = bench.store.checks().open().expect("rows are read").remove(0);
    assert_eq!(bench.store.checks().explain(&violation).expect("its events are read").owner, "night shift");
    assert_eq!(bench.told().len(), 1, "of the violation, and of nothing else");
}

#[test]
fn changed_rule_is_rejudged_but_remedy_is_not() {
    let bench = Bench::new(&[("orders.toml", &owned("first", "Paid"))]);
    bench.append(Order::Placed { order: 1 });
    bench.append(Order::Shipped { order: 1 });
    bench.pass(Duration::ZERO);
    let before = bench.store.checks().stats()[0].definition;
    let position = bench.store.stats().position;

    bench.write("orders.toml", &owned("first", "Paid").replace("ask the customer", "ask the driver"));
    bench.pass(PERIOD);
    // The text is recorded, and nothing is found again.
    let after = (bench.store.checks().stats()[0].definition, bench.store.stats().position.get());
    assert_eq!(after, (before, position.get() + 1));
    let violation = bench.store.checks().open().expect("rows are read").remove(0);
    let explained = bench.store.checks().explain(&violation).expect("its events are read");
    assert_eq!(explained.remedy, "1 ask the driver");

    bench.write("orders.toml", &owned("first", "Placed"));
    bench.pass(PERIOD);
    let stats = bench.store.checks().stats();
    assert!(stats[0].definition != before);
    // By the new one nothing was ever wrong; what the old one found is on record.
    assert_eq!((stats[0].activations, stats[0].violated), (1, 0));
    assert_eq!(bench.store.checks().of("first").expect("rows are read")[0].definition, before);
}

#[test]
fn bad_file_alerts_once_and_keeps_old_rule() {
    let bench = Bench::new(&[("orders.toml", &owned("paid-first", "Paid"))]);
    bench.write("orders.toml", &owned("paid-first", "Paid").replace("precedence", "precedents"));
    bench.pass(PERIOD);
    let [listed] = &bench.rules()[..] else { panic!("one file is listed") };
    let error = listed.error.as_ref().expect("it is wrong");
    assert_eq!((error.line, error.column, &listed.checks[..]), (3, 16, &["paid-first".to_owned()][..]));
    assert_eq!(bench.open(), [file("orders.toml")]);
    let [alert] = &bench.told()[..] else { panic!("somebody is told once") };
    assert!(
        alert.means.starts_with("/rules/orders.toml:3:16: `kind`: there is no `precedents`"),
        "{}",
        alert.means
    );
    assert!(alert.means.ends_with("what it said before stands."), "{}", alert.means);

    bench.append(Order::Shipped { order: 1 });
    bench.pass(PERIOD);
    assert_eq!(bench.open(), [seen("paid-first"), file("orders.toml")]);
    for _ in 0..20 {
        bench.pass(PERIOD);
    }
    assert_eq!(bench.told().iter().map(|alert| alert.check.as_str()).collect::<Vec<_>>(), ["paid-first"]);

    bench.write("orders.toml", &owned("paid-first", "Paid"));
    bench.pass(PERIOD);
    assert_eq!(bench.open(), [seen("paid-first")]);
    let [healed] = &bench.store.checks().of("tallystone.rules").expect("rows are read")[..] else {
        panic!("one")
    };
    assert!(matches!(healed.state, State::Healed { .. }), "{:?}", healed.state);
}

#[test]
fn old_rule_of_bad_file_survives_recover() {
    let bench = Bench::new(&[("orders.toml", &owned("paid-first", "Paid"))]);
    bench.write("orders.toml", "[check.paid-first]\nkind =");
    bench.pass(PERIOD);
    let listed = bench.rules();
    bench.disk.plan(Faults::none().at(bench.disk.op_count() + 1, Fault::WriteError));
    bench.store.append(Append::event(Order::Placed { order: 1 })).expect_err("the disk fails");
    bench.disk.plan(Faults::none());
    bench.store.recover().expect("the disk is well again");
    assert_eq!(bench.rules(), listed);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(Duration::ZERO);
    assert_eq!(bench.open(), [seen("paid-first"), file("orders.toml")]);
}

/// The file is edited badly while the store is closed: nothing of it was checked any more after the next open.
#[test]
fn file_broken_while_closed_keeps_old_rule() {
    let bench = Bench::new(&[("orders.toml", &owned("paid-first", "Paid"))]);
    bench.pass(PERIOD);
    let position = bench.store.stats().position;
    let bench = bench.reopen();
    bench.pass(PERIOD);
    assert_eq!(bench.store.stats().position, position, "a text is recorded once");
    let (disk, clock) = (bench.disk.clone(), bench.clock.clone());
    bench.store.close();
    let precedents = owned("paid-first", "Paid").replace("precedence", "precedents");
    for bad in [precedents.as_str(), "", "[check.paid-first]\nkind ="] {
        disk.write_file(at("orders.toml"), bad.as_bytes());
        let bench = Bench::on(&disk, &clock, |setup| setup);
        bench.pass(PERIOD);
        let [listed] = &bench.rules()[..] else { panic!("one file is listed") };
        assert!(listed.error.is_some() && listed.checks == ["paid-first"], "{listed:?}");
        assert_eq!(bench.open(), [file("orders.toml")]);
        let told = bench.told();
        assert!(told.iter().all(|alert| alert.means.ends_with("what it said before stands.")), "{told:?}");
        bench.store.close();
    }
    let bench = Bench::on(&disk, &clock, |setup| setup);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(PERIOD);
    assert_eq!(bench.open(), [seen("paid-first"), file("orders.toml")]);
    // One that is mended says what it says, and is what stands from then on.
    bench.write("orders.toml", &owned("placed-first", "Placed"));
    bench.pass(PERIOD);
    assert_eq!(bench.rules()[0].checks, ["placed-first"]);
    bench.write("orders.toml", "nonsense");
    let bench = bench.reopen();
    bench.pass(PERIOD);
    assert_eq!(bench.rules()[0].checks, ["placed-first"]);
}

#[test]
fn bad_file_does_not_revive_removed_rule() {
    let text = owned("paid-first", "Paid");
    let bench = Bench::new(&[("open.toml", &text), ("closed.toml", &text.replace("paid-first", "other"))]);
    bench.pass(PERIOD);
    bench.disk.remove(&at("open.toml")).expect("it is there");
    bench.pass(PERIOD);
    let (disk, clock) = (bench.disk.clone(), bench.clock.clone());
    bench.store.close();
    disk.remove(&at("closed.toml")).expect("it is there");
    let bench = Bench::on(&disk, &clock, |setup| setup);
    bench.pass(PERIOD);
    ["open.toml", "closed.toml"].iter().for_each(|name| bench.write(name, "nonsense"));
    let bench = bench.reopen();
    bench.pass(PERIOD);
    let standing: Vec<_> =
        bench.rules().into_iter().map(|file| (file.checks, file.error.is_some())).collect();
    assert_eq!(standing, [(vec![], true), (vec![], true)]);
}

#[test]
fn restart_keeps_old_settings_of_bad_folder() {
    let settings = "owner = \"warehouse\"";
    let bench = Bench::new(&[("folder.toml", settings), ("a.toml", &rule("paid-first", "Paid", ""))]);
    bench.pass(PERIOD);
    bench.write("folder.toml", "owner = \" \"");
    let bench = bench.reopen();
    bench.append(Order::Shipped { order: 1 });
    bench.pass(PERIOD);
    assert!(bench.open().contains(&seen("paid-first")), "{:?}", bench.open());
    let told = bench.told();
    let alert = told.iter().find(|alert| alert.check == "paid-first").expect("somebody is told");
    assert_eq!(alert.owner, "warehouse");
}

#[test]
fn open_tolerates_bad_file_without_repeated_alert() {
    let bench =
        Bench::new(&[("orders.toml", "[check.x]\nkind ="), ("good.toml", &owned("paid-first", "Paid"))]);
    bench.pass(Duration::ZERO);
    let [alert] = &bench.told()[..] else { panic!("somebody is told once") };
    assert_eq!(alert.severity, Severity::Page);
    assert!(alert.means.ends_with("nothing of it is checked."), "{}", alert.means);
    let position = bench.store.stats().position;
    let bench = bench.reopen();
    bench.pass(PERIOD);
    assert_eq!((bench.told().len(), bench.store.stats().position), (0, position));
    assert_eq!(bench.open(), [file("orders.toml")]);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(Duration::ZERO);
    assert_eq!(bench.open(), [seen("paid-first"), file("orders.toml")]);
}

#[test]
fn duplicate_rule_is_refused_in_later_file() {
    let bench = Bench::new(&[("b.toml", &owned("paid-first", "Paid"))]);
    bench.write("a.toml", &(owned("other", "Paid") + &owned("paid-first", "Placed")));
    bench.pass(PERIOD);
    let [a, b] = &bench.rules()[..] else { panic!("two files are listed") };
    let error = a.error.as_ref().expect("it is refused");
    assert_eq!(error.to_string(), "/rules/a.toml:11:16: `paid-first` is defined by /rules/b.toml already");
    assert_eq!((a.checks.len(), b.error.as_ref(), b.checks.len()), (0, None, 1));
    // It is free when the other lets go of it.
    bench.write("b.toml", &owned("third", "Paid"));
    bench.pass(PERIOD);
    let listed: Vec<_> = bench.rules().iter().map(|file| (file.checks.len(), file.error.is_some())).collect();
    assert_eq!((listed, bench.open()), (vec![(2, false), (1, false)], vec![]));
}

#[test]
fn files_exchanging_rules_are_both_accepted() {
    let bench = Bench::new(&[("a.toml", &owned("one", "Paid")), ("b.toml", &owned("two", "Paid"))]);
    bench.write("a.toml", &owned("two", "Paid"));
    bench.write("b.toml", &owned("one", "Paid"));
    bench.pass(PERIOD);
    let listed: Vec<_> = bench.rules().into_iter().map(|file| (file.checks, file.error)).collect();
    assert_eq!(listed, [(vec!["two".to_owned()], None), (vec!["one".to_owned()], None)]);
}

#[test]
fn file_redefining_setup_check_is_refused() {
    let (disk, clock) = (SimDisk::new(1), SimClock::default());
    disk.write_file(at("a.toml"), owned("paid-first", "Placed").as_bytes());
    let about = About {
        id: "paid-first",
        severity: Severity::Ticket,
        owner: "warehouse",
        means: "We shipped too early.",
        remedy: "1 ask the customer",
    };
    let check =
        about.precedence(|e: &Order| matches!(e, Order::Paid { .. }), |e| matches!(e, Order::Shipped { .. }));
    let bench = Bench::on(&disk, &clock, |setup| setup.check(check));
    let error = bench.rules()[0].error.clone().expect("it is refused");
    assert_eq!(error.what, "`paid-first` is defined by the setup already");
    assert_eq!(bench.store.checks().stats().len(), 1);
}

#[test]
fn reserved_rule_name_is_refused() {
    let bench = Bench::new(&[("a.toml", &owned("\"tallystone.freshness\"", "Paid"))]);
    let error = bench.rules()[0].error.clone().expect("it is refused");
    assert_eq!(error.what, "`id`: names that begin with `tallystone.` are the store's own");
}

#[test]
fn half_written_file_changes_nothing_until_complete() {
    let whole = owned("paid-first", "Paid") + &owned("placed-first", "Placed");
    let bench = Bench::new(&[("a.toml", &owned("paid-first", "Paid"))]);
    for cut in [whole.len() - 30, whole.len() - 200] {
        bench.write("a.toml", &whole[..cut]);
        bench.pass(PERIOD);
        let listed = &bench.rules()[0];
        assert_eq!((listed.checks.len(), listed.error.is_some()), (1, true), "{cut}");
    }
    bench.write("a.toml", &whole);
    bench.pass(PERIOD);
    let listed = &bench.rules()[0];
    assert_eq!((listed.checks.len(), listed.error.as_ref(), bench.open()), (2, None, vec![]));
}

#[test]
fn unusable_file_is_named_unless_hidden() {
    let bench = Bench::new(&[
        ("a.tml", &owned("a", "Paid")),
        ("b.TOML", ""),
        (".c.toml", "mist"),
        (".git/d.toml", "mist"),
        ("e.toml", "# nothing yet"),
    ]);
    bench.disk.write_file(at("f.toml"), b"# \xff");
    bench.pass(PERIOD);
    let listed: Vec<_> = bench
        .rules()
        .into_iter()
        .map(|file| {
            (
                file.file.file_name().expect("a name").to_owned(),
                file.error.map(|error| (error.line, error.column)),
            )
        })
        .collect();
    let is = |name: &str, error| (name.into(), error);
    assert_eq!(
        listed,
        [
            is("a.tml", Some((1, 1))),
            is("b.TOML", Some((1, 1))),
            is("e.toml", Some((1, 1))),
            is("f.toml", Some((1, 3)))
        ]
    );
}

#[test]
fn unreachable_folder_keeps_its_rules() {
    let bench = Bench::new(&[("orders.toml", &owned("paid-first", "Paid"))]);
    bench.disk.rename(Path::new(FOLDER), Path::new("/elsewhere")).expect("it is there");
    bench.pass(PERIOD);
    assert_eq!(bench.store.checks().stats().len(), 1);
    assert_eq!(bench.open(), [("tallystone.rules".to_owned(), Some(FOLDER.to_owned()))]);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(Duration::ZERO);
    assert!(bench.open().contains(&seen("paid-first")));
    bench.disk.rename(Path::new("/elsewhere"), Path::new(FOLDER)).expect("it is there");
    bench.pass(PERIOD);
    assert_eq!(bench.open(), [seen("paid-first")]);
}

#[test]
fn unreadable_file_is_named_and_keeps_rules() {
    let bench = Bench::new(&[("orders.toml", &owned("paid-first", "Paid"))]);
    bench.disk.make_unreadable(at("orders.toml"), 0..10);
    bench.pass(PERIOD);
    let listed = &bench.rules()[0];
    assert!(listed.error.is_some() && listed.checks == ["paid-first"], "{listed:?}");
    bench.write("orders.toml", &owned("paid-first", "Paid"));
    bench.pass(PERIOD);
    assert_eq!(bench.rules()[0].error, None);
}

#[test]
fn bad_folder_toml_keeps_its_old_settings() {
    let bench = Bench::new(&[
        ("folder.toml", "owner = \"warehouse\"\nperiod = \"1m\""),
        ("a.toml", &rule("paid-first", "Paid", "")),
    ]);
    for (text, line, column, what) in [
        (
            "owner = \"warehouse\"\nperiod = \"1\"",
            2,
            10,
            "`period`: `1` is no time: write one like `15m`, `90d` or `1h30m`",
        ),
        ("period = \"999ms\"", 1, 10, "`period`: it is at least 1s"),
        ("owner = \" \"", 1, 9, "`owner`: it is empty"),
        ("rules = 1", 1, 1, "unknown field `rules`, expected one of `period`, `owner`, `severity`"),
    ] {
        bench.write("folder.toml", text);
        bench.pass(Duration::from_secs(60));
        let [settings, rules] = &bench.rules()[..] else { panic!("both are listed") };
        let error = settings.error.as_ref().expect("it is wrong");
        assert_eq!((error.line, error.column, error.what.as_str()), (line, column, what));
        assert_eq!((rules.checks.len(), rules.error.as_ref(), rules.period.as_secs()), (1, None, 60));
    }
    bench.write("folder.toml", "period = \"1m\"");
    bench.pass(Duration::from_secs(60));
    // The rule needs the owner that is not said any more: it is named, and stands.
    let [rules] = &bench.rules()[..] else { panic!("one is listed") };
    assert_eq!(rules.error.as_ref().map(|error| error.what.as_str()), Some("missing field `owner`"));
    assert_eq!(rules.checks, ["paid-first"]);
}

#[test]
fn real_folder_is_read_on_checks_thread() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = SimClock::default();
    let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
    std::fs::create_dir(dir.path().join("hourly")).expect("a folder");
    let setup = Setup::new().events::<Order>().platform(platform).check_folder(dir.path()).alerts(|_| ());
    let store = Store::in_memory(setup).expect("it opens");
    std::fs::write(dir.path().join("hourly/a.toml"), owned("paid-first", "Paid")).expect("it is written");
    clock.advance(PERIOD);
    // An event wakes the checks.
    let last = store.append(Append::event(Order::Shipped { order: 1 })).expect("it is taken").receipt.last;
    let mut log = store.subscribe::<Raw>(QueryItem::types(["tallystone.Violated"]), last);
    assert!(log.next().is_some_and(|event| event.is_ok()));
    assert_eq!(store.checks().open().expect("rows are read")[0].check, "paid-first");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("z.toml")).expect("a link");
        clock.advance(PERIOD);
        store.append(Append::event(Order::Shipped { order: 2 })).expect("it is taken");
        assert!(log.next().is_some_and(|event| event.is_ok()));
        assert!(log.next().is_some_and(|event| event.is_ok()));
        assert!(
            store.checks().rules()[1]
                .error
                .as_ref()
                .is_some_and(|error| error.what.contains("leaves the folder of rules"))
        );
    }
}

/// Orders by their state: paid or not, and how often shipped.
struct Orders;

#[derive(Clone, Serialize, Deserialize)]
struct OrderState {
    paid: bool,
    shipped: u32,
}

impl Projection for Orders {
    const NAME: &'static str = "orders";
    type Event = Order;
    type Key = u32;
    type Row = OrderState;

    fn fold(event: &Order, rows: &mut Rows<Self>) -> Folded {
        rows.put(event.id(), OrderState { paid: matches!(event, Order::Paid { .. }), shipped: 0 })
    }
}

/// A rule with these lines, and what every rule has.
fn with(lines: &str) -> String {
    format!("[check.r]\n{lines}\nseverity = \"ticket\"\nowner = \"o\"\nmeans = \"m\"\nremedy = \"r\"\n")
}

const RESPONSE: &str = "kind = \"response\"\nwithin = \"1h\"\n";

/// Rules whose names are wrong where `@` stands, and what is said of them.
const MISNAMED: &[(&str, &str)] = &[
    (
        "when = @'order.Placd'\nthen = 'order.Paid'",
        "no event type `order.Placd`; did you mean `order.Placed`?",
    ),
    ("when = 'order.Placed'\nthen = ['order.Paid', @'ordr.Shipped']", "did you mean `order.Shipped`?"),
    (
        "when = { type = 'order.Placed', where = { @'ordr' = 1 } }\nthen = 'order.Paid'",
        "no field `ordr`: nothing is called `ordr` there; did you mean `order`?",
    ),
    (
        "when = { type = 'order.Placed', where = { @order = '7' } }\nthen = 'order.Paid'",
        "`order` is u32, and never \"7\"",
    ),
    ("when = 'order.Placed'\nthen = 'order.Paid'\nkey = @'order.id'", "no field `order.id`"),
    ("when = 'order.Placed'\nthen = 'order.Paid'\ntied = ['order', @'sum']", "no field `sum`"),
    (
        "when = 'order.Placed'\nthen = 'order.Paid'\nfamilies = [@'oder']",
        "no family `oder`; did you mean `order`?",
    ),
    (
        "when = 'order.Placed'\nthen = 'order.Paid'\nescalate = [{ above = 5, amount = @'cents', severity = 'page' }]",
        "no field `cents`",
    ),
    (
        "kind = 'rows'\nwrong = [{ row = @'oders', exists = true }]",
        "no projection `oders`; did you mean `orders`?",
    ),
    ("kind = 'rows'\nwrong = [{ row = 'orders', where = { @payd = true } }]", "did you mean `paid`?"),
    ("kind = 'rows'\nwrong = [{ row = 'orders', where = { @paid = 1 } }]", "`paid` is bool, and never 1"),
    ("kind = 'rows'\nwrong = [{ row = 'orders', above = { @paid = 1 } }]", "`paid` is bool, and no number"),
    ("kind = 'rows'\nwrong = [{ row = 'orders', differs = { shipped = @'payd' } }]", "no field `payd`"),
    ("kind = 'balances'\nadds = [{ when = 'order.Paid', field = @'cents' }]", "no field `cents`"),
];

#[test]
fn unknown_name_is_refused_with_position() {
    for (lines, says) in MISNAMED {
        let kind = if lines.contains("kind") { "" } else { "kind = 'response'\n" };
        let marked = with(&format!("within = '1h'\n{kind}{lines}"));
        let (before, after) = marked.split_once('@').expect("it is marked");
        let place = (before.matches('\n').count() + 1, before.rsplit('\n').next().map_or(0, str::len) + 1);
        let (disk, clock) = (SimDisk::new(1), SimClock::default());
        disk.create_dir(Path::new(FOLDER)).expect("nothing is there");
        disk.write_file(at("r.toml"), format!("{before}{after}").as_bytes());
        let bench = Bench::on(&disk, &clock, |setup| setup.inline::<Orders>());
        let error = bench.rules()[0].error.clone().unwrap_or_else(|| panic!("it is taken: {lines}"));
        assert_eq!((error.line, error.column), place, "{error}\n{lines}");
        assert!(error.what.contains(says), "{error}");
        bench.pass(Duration::ZERO);
        assert_eq!(bench.open(), [file("r.toml")]);
    }
}

#[test]
fn misspelled_edit_keeps_old_rule_and_finding() {
    let bench = Bench::new(&[("r.toml", &owned("paid-first", "Paid"))]);
    bench.write("r.toml", &owned("paid-first", "Payed"));
    bench.pass(PERIOD);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(PERIOD);
    assert_eq!(bench.open(), [seen("paid-first"), file("r.toml")]);
    // After a restart nothing stands for it, and that is still open.
    let bench = bench.reopen();
    bench.pass(PERIOD);
    assert!(bench.open().contains(&file("r.toml")), "{:?}", bench.open());
    bench.write("r.toml", &owned("paid-first", "Paid"));
    bench.pass(PERIOD);
    assert_eq!(bench.open(), [seen("paid-first")]);
}

#[test]
fn raw_event_types_must_be_in_expects() {
    let rule = with(&format!(
        "{RESPONSE}when = {{ type = \"mail.Sent\", where = {{ to = \"Ann\" }} }}\nthen = \"order.Paid\""
    ));
    for (expects, is_taken) in [
        ("", false),
        ("expects = [\"mail.Sent\"]\n", true),
        ("expects = [\"mail.*\"]\n", true),
        ("expects = [\"mail.Read\", \"post.*\"]\n", false),
    ] {
        let bench = Bench::new(&[("r.toml", &format!("{expects}{rule}"))]);
        assert_eq!(bench.rules()[0].error.is_none(), is_taken, "{expects}");
    }
    let of_rule =
        with(&format!("{RESPONSE}when = \"mail.Sent\"\nthen = \"order.Paid\"\nexpects = [\"mail.Sent\"]"));
    assert_eq!(Bench::new(&[("r.toml", &of_rule)]).rules()[0].error, None);
}

#[test]
fn emptied_file_does_not_remove_rule() {
    for emptied in ["", "\n\n", "# it was here\n", "[check]\n", "expects = [\"a.B\"]\n"] {
        let bench = Bench::new(&[("r.toml", &owned("paid-first", "Paid"))]);
        bench.write("r.toml", emptied);
        bench.pass(PERIOD);
        bench.append(Order::Shipped { order: 1 });
        bench.pass(PERIOD);
        assert_eq!(bench.open(), [seen("paid-first"), file("r.toml")], "{emptied:?}");
    }
    let whole = owned("paid-first", "Paid");
    for cut in (1..whole.trim_end().len()).step_by(9) {
        let bench = Bench::new(&[("r.toml", &whole)]);
        bench.write("r.toml", &whole[..cut]);
        bench.pass(PERIOD);
        assert!(bench.rules()[0].error.is_some(), "{}", &whole[..cut]);
    }
}

#[test]
fn edit_of_escalate_alone_is_applied() {
    let escalates = |to: &str| {
        let more = format!("owner = \"warehouse\"\nescalate = [{{ after = \"1h\", severity = \"{to}\" }}]");
        rule("paid-first", "Paid", &more).replace("\"ticket\"", "\"note\"")
    };
    let bench = Bench::new(&[("r.toml", &escalates("ticket"))]);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(PERIOD);
    bench.write("r.toml", &escalates("page"));
    bench.pass(PERIOD);
    bench.told();
    bench.pass(Duration::from_secs(3700));
    let told = bench.told();
    assert!(told.iter().any(|alert| alert.severity == Severity::Page), "{told:?}");
}

#[cfg(unix)]
#[test]
fn non_utf_8_file_name_is_reported() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().expect("a directory");
    let name = std::ffi::OsStr::from_bytes(b"r\xff.toml");
    std::fs::write(dir.path().join(name), owned("paid-first", "Paid")).expect("it is written");
    let setup = Setup::new().events::<Order>().check_folder(dir.path()).lockstep();
    let store = Store::in_memory(setup).expect("it opens");
    let [listed] = &store.checks().rules()[..] else { panic!("one file is listed") };
    let error = listed.error.as_ref().expect("it cannot be read");
    assert!(error.what.contains("its name is not UTF-8"), "{error}");
}

#[test]
fn parsed_check_with_unknown_type_fails_setup() {
    for (when, says) in [
        (
            "order.Placd",
            "check `r`: `when`: there is no event type `order.Placd`; did you mean `order.Placed`?",
        ),
        ("order.Placed", ""),
    ] {
        let text = with(&format!("{RESPONSE}when = \"{when}\"\nthen = \"order.Paid\""));
        let check = tallystone::check::rules::parse(&text, "r.toml").expect("it is well formed").remove(0);
        let opened = Store::in_memory(Setup::new().events::<Order>().check(check));
        let said = opened.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(says) && said.is_empty() == says.is_empty(), "{said}");
    }
}
