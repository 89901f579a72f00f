//! Logs and definitions from a seed: small, so that roles meet, and on the edges of windows as often as off them.

use super::{Def, Event, Selector, Template, Where, Window};
use serde_json::{Map, Value};

/// Splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn within(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from + 1) as usize) as i64
    }

    /// True in one of `of`.
    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const KINDS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// How large a log is to be, and how orderly.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub events: usize,
    pub cases: usize,
    /// How far behind the latest timestamp one may come.
    pub late: i64,
}

pub fn random_log(seed: u64, shape: Shape) -> Vec<Event> {
    let mut random = Random::new(seed);
    let mut lengths = vec![0; shape.cases];
    let mut latest = 0;
    let mut log = Vec::new();
    for _ in 0..shape.events {
        latest += match random.below(20) {
            0..7 => 0,
            7..16 => random.within(1, 5),
            16..19 => random.within(6, 30),
            _ => random.within(100, 1000),
        };
        let behind = if random.one_in(4) { random.within(0, shape.late) } else { 0 };
        let case = random.below(shape.cases);
        let mut attrs = Map::new();
        for (name, values) in [("x", 3), ("y", 2)] {
            if !random.one_in(6) {
                attrs.insert(name.to_owned(), Value::from(random.below(values)));
            }
        }
        let kind = random.of(&KINDS).to_string();
        log.push(Event { case: format!("k{case}"), idx: lengths[case], kind, ts: latest - behind, attrs });
        lengths[case] += 1;
    }
    log
}

pub fn random_def(seed: u64) -> Def {
    let mut random = Random::new(seed);
    let template = *random.of(&Template::ALL);
    let one_role = template.counts() || matches!(template, Template::Init | Template::End);
    let windowed = template.counts() || template.pairs();
    let def = Def {
        id: format!("seed {seed}"),
        template,
        a: Some(selector(&mut random)),
        b: (!one_role).then(|| selector(&mut random)),
        c: (template == Template::AbsentBetween).then(|| selector(&mut random)),
        n: template.counts().then(|| 1 + random.below(3)),
        window: match template {
            // It slides over all of the case, so it has no beginning.
            Template::Absence => random.one_in(2).then(|| Window { lo: 0, hi: Some(random.within(0, 25)) }),
            _ if windowed => window(&mut random),
            _ => None,
        },
        corr: if template.pairs() { corr(&mut random) } else { Vec::new() },
        lasting: (template == Template::Standing).then(|| random.within(0, 30)),
        note: None,
        calendar: None,
    };
    def.assert_well_formed();
    def
}

/// Of five types, so that one event often has two roles.
fn selector(random: &mut Random) -> Selector {
    match random.below(6) {
        0..3 => Selector::Type(random.of(&KINDS).to_string()),
        3 => Selector::Any(
            (0..1 + random.below(3)).map(|_| Selector::Type(random.of(&KINDS).to_string())).collect(),
        ),
        4 => Selector::Any(vec![Selector::Type(random.of(&KINDS).to_string()), attribute(random)]),
        _ => attribute(random),
    }
}

fn attribute(random: &mut Random) -> Selector {
    let kind = random.one_in(2).then(|| random.of(&KINDS).to_string());
    Selector::Where(Where { kind, attr: Map::from_iter([("x".to_owned(), Value::from(random.below(3)))]) })
}

fn window(random: &mut Random) -> Option<Window> {
    let (lo, hi) = (random.within(0, 6), random.within(0, 25));
    match random.below(5) {
        0 => None,
        1 => Some(Window { lo, hi: Some(lo + hi) }),
        2 => Some(Window { lo, hi: None }),
        _ => Some(Window { lo: 0, hi: Some(hi) }),
    }
}

fn corr(random: &mut Random) -> Vec<String> {
    let names: &[&str] = match random.below(6) {
        0 => &["x", "y"],
        1..3 => &["x"],
        _ => &[],
    };
    names.iter().map(|name| name.to_string()).collect()
}
