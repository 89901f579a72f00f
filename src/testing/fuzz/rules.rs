//! Files of rules: any text.

use crate::check::{Check, Definition, Fields, Plain, Selector, rules};
use crate::disk::Platform;
use crate::error::OpenError;
use crate::event::{Raw, Tags};
use crate::request::Append;
use crate::setup::Setup;
use crate::store::Store;
use crate::testing::SimClock;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Any text as a file of rules is refused with a place that is in it, or its checks can be judged; and what is defined is defined
/// the same when it was written down, as TOML or as JSON.
///
/// The first byte says whether the others are the text, or pick pieces of it.
pub fn rule_parser(bytes: &[u8]) {
    run(bytes);
}

/// How many checks it was.
fn run(bytes: &[u8]) -> usize {
    let Some((how, rest)) = bytes.split_first() else { return 0 };
    let text = match how % 2 {
        0 => String::from_utf8_lossy(rest).into_owned(),
        _ => rest.iter().map(|piece| PIECES[usize::from(*piece) % PIECES.len()]).collect(),
    };
    match rules::parse(&text, "any.toml") {
        Err(error) => {
            is_inside(&text, error.line, error.column);
            0
        }
        Ok(checks) => {
            let definitions = definitions(&text);
            assert_eq!(checks.len(), definitions.len(), "{text}");
            survives_a_round_trip(&checks, &definitions);
            can_be_judged(&checks, &definitions);
            checks.len()
        }
    }
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

/// Read without the parser of rules.
fn definitions(text: &str) -> Vec<Definition> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        check: BTreeMap<String, toml::Table>,
    }
    let file: File = toml::from_str(text).expect("it was parsed");
    let read = file.check.into_iter().map(|(id, mut table)| {
        table.insert("id".to_owned(), id.into());
        Definition::deserialize(table).expect("it was read")
    });
    read.collect()
}

fn survives_a_round_trip(checks: &[Check], definitions: &[Definition]) {
    let hash = |id: &str| checks.iter().find(|check| check.id() == id).map(Check::definition);
    for definition in definitions {
        let value = serde_json::to_value(definition).expect("it is plain");
        let again: Definition = serde_json::from_value(value.clone()).expect("it was written just now");
        assert_eq!(&again, definition);
        let check = Check::try_from(again).expect("it was one before");
        assert_eq!(Some(check.definition()), hash(&definition.id));
        let text = as_toml(value);
        let [check] =
            &rules::parse(&text, "again.toml").unwrap_or_else(|error| panic!("{error} in {text}"))[..]
        else {
            panic!("one check was written: {text}")
        };
        assert_eq!(Some(check.definition()), hash(&definition.id), "{text}");
    }
}

fn as_toml(definition: Value) -> String {
    let Value::Object(mut fields) = definition else { panic!("a definition has fields") };
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
fn can_be_judged(checks: &[Check], definitions: &[Definition]) {
    let clock = SimClock::default();
    let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
    let setup = Setup::new().platform(platform).lockstep().alerts(|_| ());
    // Whatever a text names is a type that only raw appends bring.
    let expecting = definitions.iter().map(|definition| {
        let check = checks.iter().find(|check| check.id() == definition.id).expect("it was parsed");
        let expects = check.lens.families().iter().map(|family| format!("{family}.*")).collect();
        Check::try_from(Definition { expects, ..definition.clone() }).expect("it was one before")
    });
    let store = match Store::in_memory(expecting.fold(setup, Setup::check)) {
        Ok(store) => store,
        // `families` that are no names of families.
        Err(OpenError::Setup(_)) => return,
        Err(error) => panic!("checks of one file open: {error}"),
    };
    for definition in definitions.iter().take(4) {
        let Definition { when, then, until, closed_by, .. } = definition;
        for selector in
            [Some(when), then.as_ref(), until.as_ref(), Some(when), closed_by.as_ref()].into_iter().flatten()
        {
            let mut payload = Map::new();
            let type_name = selected(selector, &mut payload);
            for path in definition.key.iter().chain(&definition.tied).chain(&definition.time) {
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

/// The type of an event that is selected, and its fields.
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
    fn any_text_is_refused_with_its_place_or_gives_checks_that_can_be_judged() {
        let mut random = Random::new(19);
        let mut checks = 0;
        for round in 0..4000 {
            let mut bytes = vec![0; 2 + round % 12];
            random.fill(&mut bytes);
            // What is all of pieces is rarely whole: some begin with what is.
            if round % 4 == 0 {
                (bytes[0], bytes[1]) = (1, 1);
            }
            if round % 4 == 1 {
                // A file that is well, but for a few characters.
                let mut text = format!("{}{}", PIECES[1], PIECES[9]).into_bytes();
                for _ in 0..random.below(3) {
                    let at = random.below(text.len() as u64) as usize;
                    text[at] = random.below(256) as u8;
                }
                bytes = [vec![0], text].concat();
            }
            checks += run(&bytes);
        }
        println!("{checks} checks");
        assert!(checks > 500, "{checks}");
    }
}
