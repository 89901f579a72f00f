//! The examples of the Dynamic Consistency Boundary site (dcb.events), as transactions: given, when, then. And what a store that
//! claims conformance must stand: writers whose every event says what it rests on.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tallystone::Options;
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::request::Retry;
use tallystone::testing::{Random, SimClock, SimDisk, SimEntropy};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A store whose time a test moves.
struct World {
    store: Store,
    clock: SimClock,
}

/// What a decision comes to: nothing but events, or a refusal in words.
type Decided = Decision<(), String>;

fn refused(why: impl Into<String>) -> Decided {
    refuse(why.into())
}

impl World {
    fn of<E: EventSet>() -> Self {
        let clock = SimClock::default();
        let (disk, entropy) = (Arc::new(SimDisk::new(1)), Arc::new(SimEntropy::new(1)));
        let platform = Platform { disk, clock: Arc::new(clock.clone()), entropy };
        let setup = Setup::new().events::<E>().platform(platform);
        Self { store: Store::in_memory(setup).expect("a store in memory opens"), clock }
    }

    fn given(self, event: impl EventSet) -> Self {
        self.store.append(Append::event(event)).expect("nothing refuses what is given");
        self
    }

    fn later(self, by: Duration) -> Self {
        self.clock.advance(by);
        self
    }

    /// What a decision appends, or why it does not.
    fn when<E: Event>(&self, decide: impl FnMut(&mut Tx<'_>) -> Decided) -> Result<Vec<E>, String> {
        let before = self.store.view().expect("the store is open").position();
        match self.store.transact("when", decide) {
            Ok(_) => {
                let view = self.store.view().expect("the store is open");
                let new = view.query::<E>(Query::from(QueryItem::family::<E>()).after(before));
                Ok(new.map(|event| event.expect("events can be read").event).collect())
            }
            Err(TxError::Refused(why)) => {
                assert_eq!(self.store.view().expect("the store is open").position(), before);
                Err(why)
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn events<E: Event>(store: &Store) -> Vec<E> {
    let view = store.view().expect("the store is open");
    view.query::<E>(QueryItem::family::<E>()).map(|event| event.expect("events can be read").event).collect()
}

/// Two decisions from one snapshot, the first committed first. Whether the second is told of a conflict.
fn at_once(
    store: &Store,
    mut first: impl FnMut(&mut Tx<'_>) -> Decided,
    mut second: impl FnMut(&mut Tx<'_>) -> Decided,
) -> bool {
    let mut one = store.begin("first").expect("it begins");
    let mut two = store.begin("second").expect("it begins");
    first(&mut one).expect("it decides alone");
    second(&mut two).expect("it decides alone");
    one.commit(()).expect("nothing came before it");
    match two.commit(()) {
        Ok(_) => false,
        Err(TxError::Conflict(_)) => true,
        Err(error) => panic!("{error}"),
    }
}

// ---- course subscriptions ----

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Course {
    Defined { course: String, capacity: usize },
    CapacityChanged { course: String, capacity: usize },
    Subscribed { student: String, course: String },
}

impl Event for Course {
    const FAMILY: &str = "course";
    type Id = String;

    fn id(&self) -> String {
        let (Self::Defined { course, .. }
        | Self::CapacityChanged { course, .. }
        | Self::Subscribed { course, .. }) = self;
        course.clone()
    }

    fn tags(&self) -> Tags {
        let tags = Tags::of("course", self.id());
        match self {
            Self::Subscribed { student, .. } => tags.and("student", student),
            _ => tags,
        }
    }
}

fn defined(course: &str, capacity: usize) -> Course {
    Course::Defined { course: course.into(), capacity }
}

fn subscribed(student: &str, course: &str) -> Course {
    Course::Subscribed { student: student.into(), course: course.into() }
}

/// Of one course: its capacity, if there is one, and who takes it.
fn course_of(tx: &Tx<'_>, course: &str) -> Result<(Option<usize>, BTreeSet<String>), Fault> {
    let (mut capacity_is, mut students) = (None, BTreeSet::new());
    for event in tx.query::<Course>(QueryItem::tag("course", course))? {
        match event.event {
            Course::Defined { capacity, .. } | Course::CapacityChanged { capacity, .. } => {
                capacity_is = Some(capacity);
            }
            Course::Subscribed { student, .. } => drop(students.insert(student)),
        }
    }
    Ok((capacity_is, students))
}

fn define(tx: &mut Tx<'_>, course: &str, capacity: usize) -> Decided {
    if course_of(tx, course)?.0.is_some() {
        return refused(format!("course {course} exists already"));
    }
    Ok(tx.append(defined(course, capacity))?)
}

fn change_capacity(tx: &mut Tx<'_>, course: &str, capacity: usize) -> Decided {
    match course_of(tx, course)?.0 {
        None => refused(format!("course {course} does not exist")),
        Some(is) if is == capacity => refused(format!("course {course} has the capacity {capacity} already")),
        Some(_) => Ok(tx.append(Course::CapacityChanged { course: course.into(), capacity })?),
    }
}

fn subscribe(tx: &mut Tx<'_>, student: &str, course: &str) -> Decided {
    let (capacity, students) = course_of(tx, course)?;
    let taken = tx.query::<Course>(QueryItem::tag("student", student))?.len();
    match capacity {
        None => refused(format!("course {course} does not exist")),
        Some(capacity) if students.len() >= capacity => refused(format!("course {course} is fully booked")),
        Some(_) if students.contains(student) => refused(format!("{student} takes course {course} already")),
        Some(_) if taken >= 5 => refused(format!("{student} takes 5 courses already")),
        Some(_) => Ok(tx.append(subscribed(student, course))?),
    }
}

fn courses(given: impl IntoIterator<Item = Course>) -> World {
    given.into_iter().fold(World::of::<Course>(), World::given)
}

#[test]
fn a_course_is_defined_once() {
    let world = courses([]);
    assert_eq!(world.when(|tx| define(tx, "c1", 15)), Ok(vec![defined("c1", 15)]));
    let again = world.when::<Course>(|tx| define(tx, "c1", 10));
    assert_eq!(again, Err("course c1 exists already".into()));
}

#[test]
fn the_capacity_of_a_course_changes() {
    let world = courses([defined("c1", 12)]);
    let none = world.when::<Course>(|tx| change_capacity(tx, "c0", 15));
    assert_eq!(none, Err("course c0 does not exist".into()));
    let same = world.when::<Course>(|tx| change_capacity(tx, "c1", 12));
    assert_eq!(same, Err("course c1 has the capacity 12 already".into()));
    let changed = Course::CapacityChanged { course: "c1".into(), capacity: 15 };
    assert_eq!(world.when(|tx| change_capacity(tx, "c1", 15)), Ok(vec![changed]));
}

#[test]
fn course_subscription_enforces_capacity_and_limits() {
    let refused = |given: Vec<Course>, student: &str, course: &str, why: &str| {
        let answer = courses(given).when::<Course>(|tx| subscribe(tx, student, course));
        assert_eq!(answer, Err(why.into()));
    };
    refused(vec![], "s1", "c0", "course c0 does not exist");
    let booked = ["s1", "s2", "s3"].map(|student| subscribed(student, "c1"));
    refused([vec![defined("c1", 3)], booked.to_vec()].concat(), "s4", "c1", "course c1 is fully booked");
    let twice = vec![defined("c1", 10), subscribed("s1", "c1")];
    refused(twice, "s1", "c1", "s1 takes course c1 already");
    let six = (1..=6).map(|course| defined(&format!("c{course}"), 10));
    let five = (1..=5).map(|course| subscribed("s1", &format!("c{course}")));
    refused(six.chain(five).collect(), "s1", "c6", "s1 takes 5 courses already");
    let world = courses([defined("c1", 10)]);
    assert_eq!(world.when(|tx| subscribe(tx, "s1", "c1")), Ok(vec![subscribed("s1", "c1")]));
}

#[test]
fn last_course_place_goes_to_one_student() {
    let World { store, .. } = courses([defined("c1", 1)]);
    assert!(at_once(&store, |tx| subscribe(tx, "s1", "c1"), |tx| subscribe(tx, "s2", "c1")));
    for round in 0..50 {
        let course = format!("parallel-{round}");
        store.append(Append::event(defined(&course, 1))).expect("it is new");
        let two = [format!("a{round}"), format!("b{round}")];
        let ask = |student| store.transact("subscribe", |tx| subscribe(tx, student, &course)).is_ok();
        let won = std::thread::scope(|scope| {
            let asking = two.each_ref().map(|student| scope.spawn(move || ask(student)));
            asking.map(|asked| usize::from(asked.join().expect("no panic"))).iter().sum::<usize>()
        });
        assert_eq!(won, 1);
    }
}

#[test]
fn subscriptions_to_different_courses_never_conflict() {
    let World { store, .. } = courses([defined("c1", 1), defined("c2", 1)]);
    assert!(!at_once(&store, |tx| subscribe(tx, "s1", "c1"), |tx| subscribe(tx, "s2", "c2")));
    assert_eq!(events::<Course>(&store).len(), 4);
}

#[test]
fn concurrent_subscriptions_respect_course_limit_per_student() {
    let six = (1..=6).map(|course| defined(&format!("c{course}"), 10));
    let four = (1..=4).map(|course| subscribed("s1", &format!("c{course}")));
    let World { store, .. } = courses(six.chain(four));
    assert!(at_once(&store, |tx| subscribe(tx, "s1", "c5"), |tx| subscribe(tx, "s1", "c6")));
    let again = store.transact("again", |tx| subscribe(tx, "s1", "c6"));
    assert!(matches!(again, Err(TxError::Refused(why)) if why == "s1 takes 5 courses already"));
}

// ---- globally unique user names ----

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Account {
    Registered { name: String },
    Closed { name: String },
    Renamed { old: String, new: String },
}

impl Event for Account {
    const FAMILY: &str = "account";
    type Id = ();

    fn id(&self) {}

    fn tags(&self) -> Tags {
        match self {
            Self::Registered { name } | Self::Closed { name } => Tags::of("username", name),
            Self::Renamed { old, new } => Tags::of("username", old).and("username", new),
        }
    }
}

/// A name that was given up stays taken for so many whole days.
fn register(tx: &mut Tx<'_>, name: &str, kept_days: Option<u64>) -> Decided {
    let mut taken = false;
    for event in tx.query::<Account>(QueryItem::tag("username", name))? {
        let days = tx.now().duration_since(event.recorded_at).unwrap_or_default().as_secs() / DAY.as_secs();
        taken = match &event.event {
            Account::Registered { .. } => true,
            Account::Renamed { new, .. } if new == name => true,
            Account::Renamed { .. } | Account::Closed { .. } => kept_days.is_some_and(|kept| days <= kept),
        };
    }
    match taken {
        true => refused(format!("user name {name} is taken")),
        false => Ok(tx.append(Account::Registered { name: name.into() })?),
    }
}

fn registered(name: &str) -> Account {
    Account::Registered { name: name.into() }
}

fn closed(name: &str) -> Account {
    Account::Closed { name: name.into() }
}

fn renamed(old: &str, new: &str) -> Account {
    Account::Renamed { old: old.into(), new: new.into() }
}

/// Registers a name after that was given, and so many days.
#[track_caller]
fn registers(given: &[Account], days: u32, kept_days: Option<u64>, name: &str, may: bool) {
    let world = given.iter().cloned().fold(World::of::<Account>(), World::given).later(days * DAY);
    let answer = world.when(|tx| register(tx, name, kept_days));
    let expected = if may { Ok(vec![registered(name)]) } else { Err(format!("user name {name} is taken")) };
    assert_eq!(answer, expected, "{given:?} and {days} days");
}

#[test]
fn a_user_name_is_unique() {
    let none = |given: &[Account], name, may| registers(given, 0, None, name, may);
    none(&[], "u1", true);
    none(&[registered("u1")], "u1", false);
    none(&[registered("u2")], "u1", true);
    none(&[registered("u1"), closed("u1")], "u1", true);
    let changed = [registered("u1"), renamed("u1", "u1changed")];
    none(&changed, "u1", true);
    none(&changed, "u1changed", false);
}

#[test]
fn released_user_name_is_reserved_for_three_days() {
    let kept = |given: &[Account], days, name, may| registers(given, days, Some(3), name, may);
    let given_up = [registered("u1"), closed("u1")];
    kept(&given_up, 3, "u1", false);
    kept(&given_up, 4, "u1", true);
    let changed = [registered("u1"), renamed("u1", "u1changed")];
    kept(&changed, 3, "u1", false);
    kept(&changed, 4, "u1", true);
    kept(&changed, 400, "u1changed", false);
}

#[test]
fn contested_user_name_is_registered_once() {
    let World { store, .. } = World::of::<Account>();
    assert!(at_once(&store, |tx| register(tx, "u1", None), |tx| register(tx, "u1", None)));
    assert!(!at_once(&store, |tx| register(tx, "u2", None), |tx| register(tx, "u3", None)));
    assert_eq!(events::<Account>(&store), ["u1", "u2", "u3"].map(registered));
}

// ---- invoice numbers ----

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct InvoiceCreated {
    number: u32,
}

impl Event for InvoiceCreated {
    const FAMILY: &str = "invoice";
    type Id = u32;

    fn id(&self) -> u32 {
        self.number
    }
}

fn last_invoice() -> Query {
    Query::from(QueryItem::family::<InvoiceCreated>()).backwards().limit(1)
}

fn create_invoice(tx: &mut Tx<'_>) -> Decision<u32, String> {
    let number = tx.query::<InvoiceCreated>(last_invoice())?.first().map_or(1, |last| last.number + 1);
    tx.append(InvoiceCreated { number })?;
    Ok(number)
}

#[test]
fn invoices_are_numbered_from_one() {
    let world = World::of::<InvoiceCreated>();
    for number in 1..=2 {
        let created = world.when(|tx| create_invoice(tx).map(drop));
        assert_eq!(created, Ok(vec![InvoiceCreated { number }]));
    }
}

#[test]
fn concurrent_invoice_numbers_are_gapless_and_unique() {
    let World { store, .. } = World::of::<InvoiceCreated>();
    std::thread::scope(|scope| {
        let one = || store.transact("invoice", create_invoice).expect("retries are enough");
        (0..100).for_each(|_| drop(scope.spawn(one)));
    });
    let numbers: Vec<_> = events::<InvoiceCreated>(&store).iter().map(|invoice| invoice.number).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
}

/// The form without a transaction: the last one is read, and nothing may have come after it.
#[test]
fn conditional_invoice_numbers_are_gapless_and_unique() {
    let World { store, .. } = World::of::<InvoiceCreated>();
    let one = || loop {
        let view = store.view().expect("the store is open");
        let last = view.query::<InvoiceCreated>(last_invoice()).next().transpose().expect("it can be read");
        let number = last.as_ref().map_or(1, |last| last.number + 1);
        let append = Append::event(InvoiceCreated { number });
        let after = last.map(|last| last.position);
        match store.append(append.fail_if_events_match(QueryItem::family::<InvoiceCreated>(), after)) {
            Ok(_) => return,
            Err(AppendError::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    std::thread::scope(|scope| (0..100).for_each(|_| drop(scope.spawn(one))));
    let numbers: Vec<_> = events::<InvoiceCreated>(&store).iter().map(|invoice| invoice.number).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
}

// ---- opt-in tokens ----

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum SignUp {
    Initiated { email: String, otp: String, name: String },
    Confirmed { email: String, otp: String, name: String },
}

impl Event for SignUp {
    const FAMILY: &str = "signup";
    type Id = String;

    fn id(&self) -> String {
        let (Self::Initiated { email, .. } | Self::Confirmed { email, .. }) = self;
        email.clone()
    }

    fn tags(&self) -> Tags {
        let (Self::Initiated { email, otp, .. } | Self::Confirmed { email, otp, .. }) = self;
        Tags::of("email", email).and("otp", otp)
    }
}

fn confirm(tx: &mut Tx<'_>, mail: &str, code: &str) -> Decided {
    let item = QueryItem::tag("email", mail).and_tag("otp", code);
    let found = tx.query::<SignUp>(item)?;
    let Some(first) = found.first() else { return refused("no sign-up waits for this token") };
    let SignUp::Initiated { email, otp, name } = first.event.clone() else {
        panic!("it is confirmed after it was initiated");
    };
    if found.len() > 1 {
        return refused("the token was used already");
    }
    if tx.now().duration_since(first.recorded_at).unwrap_or_default() > 60 * MINUTE {
        return refused("the token has expired");
    }
    Ok(tx.append(SignUp::Confirmed { email, otp, name })?)
}

/// Token that is good once, within an hour, and only for the address it was sent to.
#[test]
fn opt_in_token_restricts_use_time_and_address() {
    let initiated = |email: &str, otp: &str| SignUp::Initiated {
        email: email.into(),
        otp: otp.into(),
        name: "John Doe".into(),
    };
    let given = || World::of::<SignUp>().given(initiated("john@doe.example", "444444"));
    let confirmed = || SignUp::Confirmed {
        email: "john@doe.example".into(),
        otp: "444444".into(),
        name: "John Doe".into(),
    };
    let ask = |world: &World, email: &str, otp: &str| world.when(|tx| confirm(tx, email, otp));
    let waits = Err("no sign-up waits for this token".to_owned());
    assert_eq!(ask(&given(), "john@doe.example", "000000"), waits);
    assert_eq!(ask(&given(), "jane@doe.example", "444444"), waits);
    let used = given().given(confirmed());
    assert_eq!(ask(&used, "john@doe.example", "444444"), Err("the token was used already".into()));
    let late = given().later(61 * MINUTE);
    assert_eq!(ask(&late, "john@doe.example", "444444"), Err("the token has expired".into()));
    assert_eq!(ask(&given().later(60 * MINUTE), "john@doe.example", "444444"), Ok(vec![confirmed()]));
    let World { store, .. } = given();
    let confirm = |tx: &mut Tx<'_>| confirm(tx, "john@doe.example", "444444");
    assert!(at_once(&store, confirm, confirm), "used at once by two");
}

// ---- no order twice ----

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OrderPlaced {
    order: String,
    token: String,
}

impl Event for OrderPlaced {
    const FAMILY: &str = "order";
    type Id = String;

    fn id(&self) -> String {
        self.order.clone()
    }

    fn tags(&self) -> Tags {
        Tags::of("order", &self.order).and("token", &self.token)
    }
}

fn place(tx: &mut Tx<'_>, order: &str, token: &str) -> Decided {
    if !tx.query::<OrderPlaced>(QueryItem::tag("token", token))?.is_empty() {
        return refused("the form was sent before");
    }
    Ok(tx.append(OrderPlaced { order: order.into(), token: token.into() })?)
}

#[test]
fn resubmitted_form_places_one_order() {
    let placed = |order: &str, token: &str| OrderPlaced { order: order.into(), token: token.into() };
    let world = World::of::<OrderPlaced>().given(placed("o12345", "11111"));
    let again = world.when::<OrderPlaced>(|tx| place(tx, "o54321", "11111"));
    assert_eq!(again, Err("the form was sent before".into()));
    assert_eq!(world.when(|tx| place(tx, "o54321", "22222")), Ok(vec![placed("o54321", "22222")]));
    let both = at_once(&world.store, |tx| place(tx, "o6", "33333"), |tx| place(tx, "o7", "33333"));
    assert!(both, "one of two clicks");
}

// ---- prices that were shown ----

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Product {
    Defined { product: String, price: u32 },
    PriceChanged { product: String, price: u32 },
    Ordered { items: Vec<(String, u32)> },
}

impl Event for Product {
    const FAMILY: &str = "product";
    type Id = String;

    fn id(&self) -> String {
        match self {
            Self::Defined { product, .. } | Self::PriceChanged { product, .. } => product.clone(),
            Self::Ordered { .. } => "orders".into(),
        }
    }

    fn tags(&self) -> Tags {
        match self {
            Self::Defined { product, .. } | Self::PriceChanged { product, .. } => {
                Tags::of("product", product)
            }
            Self::Ordered { items } => {
                items.iter().fold(Tags::none(), |tags, (product, _)| tags.and("product", product))
            }
        }
    }
}

const GRACE: Duration = Duration::from_secs(600);

/// A price is good while it is shown, and for ten minutes more.
fn order(tx: &mut Tx<'_>, items: &[(&str, u32)]) -> Decided {
    for (product, shown) in items {
        let prices = QueryItem::family::<Product>().only(["Defined", "PriceChanged"]);
        let mut prices = tx.query::<Product>(prices.and_tag("product", product))?.into_iter().peekable();
        let mut good = false;
        while let Some(event) = prices.next() {
            let (Product::Defined { price, .. } | Product::PriceChanged { price, .. }) = event.event else {
                panic!("only prices were asked for");
            };
            let replaced = prices.peek().map(|next| next.recorded_at);
            let in_time = |at| tx.now().duration_since(at).unwrap_or_default() <= GRACE;
            good |= price == *shown && replaced.is_none_or(in_time);
        }
        if !good {
            return refused(format!("{shown} is no price of {product}"));
        }
    }
    let items = items.iter().map(|(product, price)| ((*product).to_owned(), *price)).collect();
    Ok(tx.append(Product::Ordered { items })?)
}

#[test]
fn order_accepts_price_from_last_ten_minutes() {
    let first = |product: &str, price| Product::Defined { product: product.into(), price };
    let change = |product: &str, price| Product::PriceChanged { product: product.into(), price };
    let one = || World::of::<Product>().given(first("p1", 123));
    let changed = |minutes: u32| one().later(DAY).given(change("p1", 134)).later(minutes * MINUTE);
    let takes = |world: &World, items: &[(&str, u32)], bad: Option<&str>| {
        let ordered = items.iter().map(|(product, price)| ((*product).to_owned(), *price)).collect();
        let expected = match bad {
            None => Ok(vec![Product::Ordered { items: ordered }]),
            Some(bad) => Err(bad.to_owned()),
        };
        assert_eq!(world.when(|tx| order(tx, items)), expected);
    };
    takes(&one(), &[("p1", 100)], Some("100 is no price of p1"));
    takes(&one(), &[("p1", 123)], None);
    takes(&changed(20), &[("p1", 100)], Some("100 is no price of p1"));
    takes(&changed(11), &[("p1", 123)], Some("123 is no price of p1"));
    takes(&changed(9), &[("p1", 123)], None);
    takes(&changed(9), &[("p1", 134)], None);
    let cart = || one().given(first("p2", 321)).later(DAY).given(change("p1", 134)).later(9 * MINUTE);
    takes(&cart(), &[("p1", 123), ("p2", 321)], None);
    takes(&cart(), &[("p1", 123), ("p2", 320)], Some("320 is no price of p2"));
    // A new price while one orders: the order is decided again, and the old price is good for a while.
    let World { store, .. } = one();
    let mut ordering = store.begin("order").expect("it begins");
    order(&mut ordering, &[("p1", 123)]).expect("it is the price");
    store.append(Append::event(change("p1", 134))).expect("nothing refuses it");
    assert!(matches!(ordering.commit(()), Err(TxError::Conflict(_))));
    store.transact("order", |tx| order(tx, &[("p1", 123)])).expect("the old price is good still");
}

// ---- aggregates ----

/// Load, decide, append at the version that was loaded; again after a failure. By hand, and as a transaction.
#[test]
fn aggregate_conflicts_only_on_own_stream() {
    let World { store, .. } = courses([defined("c1", 400), defined("c2", 400)]);
    let by_hand = |student: &str| loop {
        let view = store.view().expect("the store is open");
        let version = view.stream_version::<Course>("c1").expect("it can be read");
        let append = Append::event(subscribed(student, "c1"));
        match store.append(append.expect::<Course>("c1", Expected::Exact(version))) {
            Ok(_) => return,
            Err(AppendError::WrongVersion { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let decided = |student: &str| {
        let took = store.transact("subscribe", |tx| -> Decision<u64> {
            let seen = tx.stream::<Course>("c1")?.len() as u64;
            tx.append(subscribed(student, "c1"))?;
            Ok(seen)
        });
        let took = took.expect("retries are enough");
        let view = store.view().expect("the store is open");
        let own = view.stream::<Course>("c1").map(|event| event.expect("events can be read"));
        let own = own.filter(|event| event.position == took.receipt.first).map(|event| event.stream_version);
        assert_eq!(own.collect::<Vec<_>>(), [took.response + 1], "nothing came between");
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (by_hand, decided) = (&by_hand, &decided);
            scope.spawn(move || {
                (0..25).for_each(|n| by_hand(&format!("a{thread}-{n}")));
            });
            scope.spawn(move || {
                (0..25).for_each(|n| decided(&format!("b{thread}-{n}")));
            });
        }
    });
    assert_eq!(events::<Course>(&store).len(), 2 + 200);
    let other = |tx: &mut Tx<'_>, course: &str| {
        tx.stream::<Course>(course)?;
        Ok(tx.append(subscribed("x", course))?)
    };
    assert!(!at_once(&store, |tx| other(tx, "c1"), |tx| other(tx, "c2")), "another stream is no condition");
}

// ---- conformance ----

/// An event that says what it rests on: the query it asked, and the last event that answered it.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Claim {
    Red { asked: Vec<Asked>, tags: Vec<u64>, saw: u64 },
    Blue { asked: Vec<Asked>, tags: Vec<u64>, saw: u64 },
}

/// One item: a type, or any; and tags, all of which are borne.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Asked {
    red: Option<bool>,
    tags: Vec<u64>,
}

impl Claim {
    fn parts(&self) -> (bool, &[Asked], &[u64], u64) {
        match self {
            Self::Red { asked, tags, saw } => (true, asked, tags, *saw),
            Self::Blue { asked, tags, saw } => (false, asked, tags, *saw),
        }
    }
}

impl Event for Claim {
    const FAMILY: &str = "claim";
    type Id = u64;

    fn id(&self) -> u64 {
        self.parts().2.iter().sum()
    }

    fn tags(&self) -> Tags {
        self.parts().2.iter().fold(Tags::none(), |tags, tag| tags.and("t", tag))
    }
}

impl Asked {
    fn item(&self) -> QueryItem {
        let family = QueryItem::family::<Claim>();
        let item = match self.red {
            None => family,
            Some(red) => family.only([if red { "Red" } else { "Blue" }]),
        };
        self.tags.iter().fold(item, |item, tag| item.and_tag("t", tag))
    }

    fn matches(&self, claim: &Claim) -> bool {
        let (red, _, tags, _) = claim.parts();
        self.red.is_none_or(|wanted| wanted == red) && self.tags.iter().all(|tag| tags.contains(tag))
    }
}

fn claim(random: &mut Random, tag: impl Fn(&mut Random) -> u64, asked: Vec<Asked>, saw: u64) -> Claim {
    let tags: BTreeSet<u64> = (0..1 + random.below(3)).map(|_| tag(random)).collect();
    let tags = tags.into_iter().collect();
    if random.coin() { Claim::Red { asked, tags, saw } } else { Claim::Blue { asked, tags, saw } }
}

fn asked(random: &mut Random, tag: impl Fn(&mut Random) -> u64) -> Vec<Asked> {
    let items = 1 + random.below(2);
    let one = |random: &mut Random| {
        let tags: BTreeSet<u64> = (0..1 + random.below(2)).map(|_| tag(random)).collect();
        let red = random.chance(0.3).then(|| random.coin());
        Asked { red, tags: tags.into_iter().collect() }
    };
    (0..items).map(|_| one(random)).collect()
}

/// Flushes run beside it.
fn busy() -> Store {
    let mut options = Options::default();
    (options.segment_bytes_min, options.segment_bytes_max) = (64 << 10, 1 << 20);
    options.overlay_bytes_max = 24 << 10;
    let platform = Platform { disk: Arc::new(SimDisk::new(1)), ..Platform::real() };
    let setup = Setup::new().events::<Claim>().options(options).platform(platform);
    Store::create("/store", setup).expect("a new store")
}

const WRITERS: u64 = 16;

/// Appends what rests on what was asked, by a transaction or by a condition. How many conflicts it took.
fn claims(store: &Store, writer: u64, count: u64, tag: impl Fn(&mut Random) -> u64 + Copy) -> u64 {
    let (mut random, mut conflicts) = (Random::new(writer), 0);
    for number in 0..count {
        let asked = asked(&mut random, tag);
        let query = || asked.iter().map(Asked::item).collect::<Query>();
        let newest = || query().backwards().limit(1);
        loop {
            let refused = match number % 2 {
                0 => {
                    let decided =
                        store.transact(Request::new("claim").retry(Retry::Never), |tx| -> Decision {
                            let saw =
                                tx.query::<Claim>(newest())?.first().map_or(0, |last| last.position.get());
                            std::thread::yield_now();
                            Ok(tx.append(claim(&mut random, tag, asked.clone(), saw))?)
                        });
                    match decided {
                        Ok(_) => false,
                        Err(TxError::Conflict(_)) => true,
                        Err(error) => panic!("{error}"),
                    }
                }
                _ => {
                    let view = store.view().expect("the store is open");
                    let last = view.query::<Claim>(newest()).next().transpose().expect("it can be read");
                    let saw = last.map(|last| last.position);
                    std::thread::yield_now();
                    let claim = claim(&mut random, tag, asked.clone(), saw.unwrap_or(Position::START).get());
                    match store.append(Append::event(claim).fail_if_events_match(query(), saw)) {
                        Ok(_) => false,
                        Err(AppendError::Conflict(_)) => true,
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            conflicts += u64::from(refused);
            if !refused {
                break;
            }
        }
    }
    conflicts
}

fn all_claims(store: &Store) -> Vec<Sequenced<Claim>> {
    let view = store.view().expect("the store is open");
    view.query::<Claim>(Query::all()).collect::<Result<_, _>>().expect("events can be read")
}

/// No event that answers what another asked stands between what that saw and itself; and what it saw is the last that does.
fn assert_claims_hold(all: &[Sequenced<Claim>]) {
    for (at, event) in all.iter().enumerate() {
        let (_, asked, _, saw) = event.event.parts();
        let answers = |earlier: &&Sequenced<Claim>| asked.iter().any(|asked| asked.matches(&earlier.event));
        let last = all[..at].iter().rev().find(answers).map_or(0, |last| last.position.get());
        assert_eq!(saw, last, "{event:?}");
    }
}

#[test]
fn recorded_conditions_hold_at_event_position() {
    let store = busy();
    let conflicts: u64 = std::thread::scope(|scope| {
        let writers = (0..WRITERS)
            .map(|writer| {
                scope.spawn({
                    let store = &store;
                    move || claims(store, writer, 150, |random| random.below(8))
                })
            })
            .collect::<Vec<_>>();
        writers.into_iter().map(|writer| writer.join().expect("no panic")).sum()
    });
    assert!(conflicts > 0, "nobody met, so nothing was shown");
    let all = all_claims(&store);
    assert_eq!(all.len() as u64, WRITERS * 150);
    assert!(store.stats().flushed_commit.get() > 0, "flushes ran");
    assert_claims_hold(&all);
}

#[test]
fn unrelated_writers_never_conflict() {
    let store = busy();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                let conflicts = claims(store, writer, 100, move |random| 100 * writer + random.below(8));
                assert_eq!(conflicts, 0);
            });
        }
    });
    assert_claims_hold(&all_claims(&store));
}

#[test]
fn no_event_appears_below_polled_position() {
    let (store, done) = (busy(), AtomicBool::new(false));
    let query = || Query::from([QueryItem::tag("t", 1), QueryItem::tag("t", 2)]);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let (mut seen, mut last) = (Vec::new(), Position::START);
                    loop {
                        let over = done.load(Ordering::Acquire);
                        let view = store.view().expect("the store is open");
                        for event in view.query::<Claim>(query().after(last)) {
                            last = event.expect("events can be read").position;
                            assert!(seen.last() < Some(&last), "in order");
                            seen.push(last);
                        }
                        if over {
                            return seen;
                        }
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                scope.spawn({
                    let store = &store;
                    move || claims(store, writer, 100, |random| random.below(8))
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| _ = writer.join().expect("no panic"));
        done.store(true, Ordering::Release);
        let view = store.view().expect("the store is open");
        let all: Vec<_> =
            view.query::<Claim>(query()).map(|event| event.expect("it can be read").position).collect();
        for reader in readers {
            assert_eq!(reader.join().expect("no panic"), all, "nothing came below what was seen");
        }
    });
}
