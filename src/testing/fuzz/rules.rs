//! Files of rules: any text.

use super::Oracle;
use crate::check::{Check, Definition, Fault, Fields, Plain, RowsRule, Selector, SumsRule, rules};
use crate::disk::Platform;
use crate::error::OpenError;
use crate::event::{Raw, Tags};
use crate::request::Append;
use crate::setup::Setup;
use crate::store::Store;
use crate::testing::SimClock;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Checks that any text as a file of rules is refused with a place that is in it, or its checks can be judged; and that a
/// definition is the same after it was written down, as TOML or as JSON.
///
/// A byte is a character; bytes beyond ASCII are pieces of rules.
pub fn rule_parser(bytes: &[u8], oracle: Oracle) {
    run(bytes, oracle);
}

/// Runs the check, and returns the number of checks in the file.
fn run(bytes: &[u8], oracle: Oracle) -> usize {
    let text = text(bytes);
    match rules::parse(&text, "any.toml") {
        Err(error) => {
            is_inside(&text, error.line, error.column);
            0
        }
        Ok(checks) => {
            let written = written(&text);
            assert_eq!(checks.len(), written.len(), "{text}");
            survives_a_round_trip(&checks, &written, oracle);
            can_be_judged(&checks, &written);
            checks.len()
        }
    }
}

/// Returns the text of these bytes.
fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte.checked_sub(0x80) {
            None => text.push(char::from(*byte)),
            Some(piece) => text.push_str(PIECES[usize::from(piece) % PIECES.len()]),
        }
    }
    text
}

const PIECES: &[&str] = &[
    "\n[check.a]\n",
    "\n[check.b]\nkind = \"response\"\nwhen = \"f.A\"\nthen = \"f.B\"\nwithin = \"1h\"\nseverity = \"page\"\nowner = \"o\"\nmeans = \"m\"\nremedy = \"r\"\n",
    "\n[check.\"c d\"]\nkind = \"absent_between\"\nwhen = [\"f.A\"]\nthen = \"f.B\"\nuntil = \"g.C\"\n",
    "kind = \"absence\"\nn = 2\nwhen = \"f.A\"\n",
    "kind = \"standing\"\nwhen = \"f.A\"\nthen = { type = \"f.B\" }\nwithin = \"90d\"\n",
    "kind = \"chain_response\"\nwhen = \"f.A\"\nthen = \"f.B\"\nunbounded = true\n",
    "kind = \"end\"\nwhen = { where = { \"a.b\" = 1 } }\nfamilies = [\"f\"]\nclosed_by = \"f.C\"\n",
    "kind = \"each_closed_by\"\nwhen = { type = \"f.A\", where = { x = true } }\nthen = [\"f.B\", { type = \"g.D\" }]\nwithin = \"2m\"\n",
    "severity = \"ticket\"\nowner = \"o\"\nmeans = \"m\"\nremedy = \"r\"\n",
    "key = \"k\"\n",
    "tied = [\"x\", \"y.z\"]\n",
    "time = \"at\"\n",
    "lateness = \"1ms\"\n",
    "not_before = \"30s\"\n",
    "within = \"0s\"\n",
    "n = 0\n",
    "when = { where = { x = -1.5e3 } }\n",
    "when = \"\"\n",
    "severity = \"loud\"\n",
    "x = nan\n",
    "\n[check.sum]\nkind = \"equals\"\nadds = [{ when = \"f.A\", field = \"x\" }]\nsays = { when = \"f.B\", field = \"y.z\" }\nseverity = \"log\"\nowner = \"o\"\nmeans = \"m\"\nremedy = \"r\"\n",
    "\n[check.even]\nkind = \"balances\"\nadds = [{ when = \"f.A\", field = \"x\" }, { when = \"f.B\", field = \"x\", times = -1 }]\nwithin = \"1h\"\nseverity = \"page\"\nowner = \"o\"\nmeans = \"m\"\nremedy = \"r\"\n",
    "\n[check.rows]\nkind = \"rows\"\nwrong = [{ row = \"a\", exists = true }, { row = \"b\", where = { x = 1 } }]\nwithin = \"1h\"\nseverity = \"page\"\nowner = \"o\"\nmeans = \"m\"\nremedy = \"r\"\n",
    "wrong = [{ row = \"a\", above = { x = 1.5 }, below = { y = inf }, differs = { x = \"b:y\" } }]\n",
    "expects = [\"g.*\"]\n",
    "bucket = \"1h\"\n",
    "scale = 100\ntolerance = 2\n",
    "rounded = \"f.A\"\n",
    "carried = true\n",
    "closed_by = \"f.C\"\n",
    "guard = true\n",
    "imported = true\n",
    "skew = \"1m\"\n",
    "escalate = [{ after = \"1h\", severity = \"page\" }, { above = 5, amount = \"x\", severity = \"page\" }]\n",
    "families = [\"f\", \"g\"]\n",
    "\"\u{7f}ü\" = '''\n",
    "# ünd\r\n",
    "[check]\n",
    "[[check.a]]\n",
    "check = 1\n",
    "]",
    "=",
    "\"",
    "{",
];

fn is_inside(text: &str, line: usize, column: usize) {
    let is = text.split('\n').nth(line - 1).expect("the line is one of the text");
    assert!(column <= is.chars().count() + 1, "{line}:{column} of {text:?}");
}

/// A rule as data, of one of the three forms.
#[derive(Debug, Clone, PartialEq)]
enum RuleData {
    Word(Box<Definition>),
    Sums(Box<SumsRule>),
    Rows(RowsRule),
}

impl RuleData {
    fn read<'de, D: Deserializer<'de>>(kind: &str, from: D) -> Result<Self, D::Error> {
        Ok(match kind {
            "rows" => Self::Rows(RowsRule::deserialize(from)?),
            "equals" | "balances" => Self::Sums(Box::new(SumsRule::deserialize(from)?)),
            _ => Self::Word(Box::new(Definition::deserialize(from)?)),
        })
    }

    fn to_json(&self) -> Value {
        let json = match self {
            Self::Word(definition) => serde_json::to_value(definition),
            Self::Sums(rule) => serde_json::to_value(rule),
            Self::Rows(rule) => serde_json::to_value(rule),
        };
        json.expect("it is plain")
    }

    fn kind(&self) -> &str {
        match self {
            Self::Word(definition) => &definition.kind,
            Self::Sums(rule) => &rule.kind,
            Self::Rows(rule) => &rule.kind,
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Word(definition) => &definition.id,
            Self::Sums(rule) => &rule.id,
            Self::Rows(rule) => &rule.id,
        }
    }

    fn check(self) -> Result<Check, Fault> {
        match self {
            Self::Word(definition) => Check::try_from(*definition),
            Self::Sums(rule) => Check::try_from(*rule),
            Self::Rows(rule) => Check::try_from(rule),
        }
    }

    /// Lets types of these families be unknown.
    fn expecting(mut self, families: Vec<String>) -> Self {
        match &mut self {
            Self::Word(definition) => definition.expects = families,
            Self::Sums(rule) => rule.expects = families,
            Self::Rows(_) => {}
        }
        self
    }

    /// Selectors of the events that it is about.
    fn selectors(&self) -> Vec<&Selector> {
        match self {
            Self::Word(definition) => {
                let Definition { when, then, until, closed_by, .. } = &**definition;
                let others = [then.as_ref(), until.as_ref(), Some(when), closed_by.as_ref()];
                [Some(when)].into_iter().chain(others).flatten().collect()
            }
            Self::Sums(rule) => {
                let SumsRule { adds, says, rounded, closed_by, .. } = &**rule;
                let terms = adds.iter().take(3).chain(says).map(|term| &term.when);
                terms.chain(rounded).chain(closed_by).collect()
            }
            Self::Rows(_) => Vec::new(),
        }
    }

    /// Fields that it reads.
    fn paths(&self) -> Vec<&String> {
        match self {
            Self::Word(definition) => {
                definition.key.iter().chain(&definition.tied).chain(&definition.time).collect()
            }
            Self::Sums(rule) => {
                let fields = rule.adds.iter().chain(&rule.says).map(|term| &term.field);
                rule.key.iter().chain(&rule.time).chain(fields).collect()
            }
            Self::Rows(_) => Vec::new(),
        }
    }
}

/// Reads the rules of a file without the parser of rules.
fn written(text: &str) -> Vec<RuleData> {
    #[derive(Deserialize)]
    struct RulesToml {
        #[serde(default)]
        check: BTreeMap<String, toml::Table>,
        expects: Option<toml::Value>,
    }
    let file: RulesToml = toml::from_str(text).expect("it was parsed");
    let read = file.check.into_iter().map(|(id, mut table)| {
        table.insert("id".to_owned(), id.into());
        let kind = table["kind"].as_str().expect("it was read").to_owned();
        if let Some(expects) = file.expects.as_ref().filter(|_| kind != "rows") {
            table.entry("expects").or_insert_with(|| expects.clone());
        }
        RuleData::read(&kind, table).expect("it was read")
    });
    read.collect()
}

fn survives_a_round_trip(checks: &[Check], written: &[RuleData], oracle: Oracle) {
    let hash = |id: &str| checks.iter().find(|check| check.id() == id).map(Check::definition);
    for rule in written {
        let value = rule.to_json();
        let again = RuleData::read(rule.kind(), value.clone()).expect("it was written just now");
        assert_eq!(&again, rule);
        let check = again.check().expect("it was one before");
        assert_eq!(Some(check.definition()), hash(rule.id()));
        let text = as_toml(value, oracle);
        let [check] =
            &rules::parse(&text, "again.toml").unwrap_or_else(|error| panic!("{error} in {text}"))[..]
        else {
            panic!("one check was written: {text}")
        };
        assert_eq!(Some(check.definition()), hash(rule.id()), "{text}");
    }
}

fn as_toml(definition: Value, oracle: Oracle) -> String {
    let Value::Object(mut fields) = definition else { panic!("a definition has fields") };
    // A writer that forgets where a window begins.
    if oracle == Oracle::Canary {
        fields.remove("not_before");
    }
    let id = fields.remove("id").expect("it has a name");
    let mut text = format!("[check.{}]\n", inline(&id));
    for (field, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        writeln!(text, "{field} = {}", inline(value)).expect("a string takes it");
    }
    text
}

fn inline(value: &Value) -> String {
    let all = |values: Vec<String>| values.join(", ");
    match value {
        // A text of JSON is one of TOML, but for one character.
        Value::String(_) => value.to_string().replace('\u{7f}', "\\u007f"),
        Value::Array(values) => format!("[{}]", all(values.iter().map(inline).collect())),
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            let fields = fields.map(|(name, value)| format!("{} = {}", inline(&json!(name)), inline(value)));
            format!("{{ {} }}", all(fields.collect()))
        }
        plain => plain.to_string(),
    }
}

/// Shows the checks events that they are about, and some that lack what they ask for.
fn can_be_judged(checks: &[Check], written: &[RuleData]) {
    let clock = SimClock::default();
    let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
    let setup = Setup::new().platform(platform).lockstep().alerts(|_| ());
    // Whatever a text names is a type that only raw appends bring.
    let expecting = written.iter().map(|rule| {
        let check = checks.iter().find(|check| check.id() == rule.id()).expect("it was parsed");
        let expects = check.lens.families().iter().map(|family| format!("{family}.*")).collect();
        rule.clone().expecting(expects).check().expect("it was one before")
    });
    let store = match Store::in_memory(expecting.fold(setup, Setup::check)) {
        Ok(store) => store,
        // `families` that are no names of families, or rows of a projection that is not there.
        Err(OpenError::Setup(_)) => return,
        Err(error) => panic!("checks of one file open: {error}"),
    };
    for rule in written.iter().take(4) {
        for selector in rule.selectors() {
            let mut payload = Map::new();
            let type_name = selected(selector, &mut payload);
            for path in rule.paths() {
                put(&mut payload, path, json!(1_780_000_000_000_u64));
            }
            for payload in [Value::Object(payload), json!(null)] {
                let event = Raw::json(&type_name, "f/1", Tags::none(), &payload);
                // A limit of the store may refuse it.
                let _ = store.append(Append::raw(event));
            }
            clock.advance(Duration::from_secs(3600));
            (0..4).for_each(|_| store.step());
        }
    }
    for _ in 0..64 {
        store.step();
    }
    for stats in store.checks().stats() {
        assert!(stats.trouble.is_none(), "{}: {:?}", stats.check, stats.trouble);
        assert!(stats.is_settled(), "{stats:?}");
    }
}

/// Returns the type of an event that is selected, and puts its fields `into` the map.
fn selected(selector: &Selector, into: &mut Map<String, Value>) -> String {
    match selector {
        Selector::Type(name) => name.clone(),
        Selector::Any(all) => selected(&all[0], into),
        Selector::Fields(Fields { type_name, fields }) => {
            for (path, plain) in fields {
                put(
                    into,
                    path,
                    match plain {
                        Plain::Bool(is) => json!(is),
                        Plain::Int(number) => json!(number),
                        Plain::Float(number) => json!(number),
                        Plain::Text(text) => json!(text),
                    },
                );
            }
            type_name.clone().unwrap_or_else(|| "f.Any".to_owned())
        }
    }
}

fn put(into: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(into.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = into.entry(first).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// The target's property holds for some thousand inputs without a fuzzer too.
    #[test]
    fn any_text_gives_located_error_or_evaluable_checks() {
        let mut random = Random::new(19);
        let mut checks = 0;
        for round in 0..4000 {
            let mut bytes = vec![0; 1 + round % 12];
            random.fill(&mut bytes);
            match round % 4 {
                // A text of pieces alone is rarely whole: some begin with a whole check.
                0 => {
                    bytes.iter_mut().for_each(|byte| *byte |= 0x80);
                    bytes[0] = 0x81;
                }
                // A whole file, but for a few characters.
                1 => {
                    bytes = format!("{}{}", PIECES[1], PIECES[9]).into_bytes();
                    for _ in 0..random.below(3) {
                        let at = random.below(bytes.len() as u64) as usize;
                        bytes[at] = random.below(256) as u8;
                    }
                }
                _ => {}
            }
            checks += run(&bytes, Oracle::Right);
        }
        println!("{checks} checks");
        assert!(checks > 500, "{checks}");
    }
}
