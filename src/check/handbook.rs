//! Handbook: a document, made from the definitions, of what to do when something is wrong.

use super::calendar::Length;
use super::text::{length_text, time_text};
use super::word::{Rule, Window, Word};
use super::{Check, Clocked, Described, Invariant, Severity};

/// Returns the meaning and the remedy of every check, as Markdown. Texts of the checks appear as they are, whatever they hold.
///
/// ```
/// # use tallystone::check::{self, About, Check, Severity};
/// # use tallystone::event::Raw;
/// let about = About {
///     id: "shipped-was-paid",
///     severity: Severity::Ticket,
///     owner: "warehouse",
///     means: "We shipped what nobody paid for.",
///     remedy: "1 write a bill; 2 call the customer",
/// };
/// let is = |name: &'static str| move |event: &Raw| event.type_name() == name;
/// let check = Check::from(about.precedence(is("order.Paid"), is("order.Shipped")));
/// let book = check::handbook(&[check]);
/// assert!(book.contains("1. write a bill\n2. call the customer\n"));
/// ```
///
/// [`Checks::handbook`](crate::watch::Checks::handbook) adds the status of each.
pub fn handbook(checks: &[Check]) -> String {
    pages(checks, |_| Vec::new())
}

/// As [`handbook`], with more lines for each check: a name, and a plain text.
pub(crate) fn pages(checks: &[Check], mut more: impl FnMut(&Check) -> Vec<(&'static str, String)>) -> String {
    let mut book = String::from("# Handbook of the checks\n");
    for check in checks {
        let mut lines = vec![("Rule", check.in_words())];
        lines.extend(check.escalations.in_words().into_iter().map(|words| ("Escalates", words)));
        if check.fix.is_some() {
            lines
                .push(("Machine steps", "it can put itself right: look at the remediation first".to_owned()));
        }
        lines.extend(more(check));
        page(&mut book, &check.about, lines);
    }
    book
}

/// Adds a page for each invariant.
pub(crate) fn pages_of_invariants(book: &mut String, invariants: &[Invariant]) {
    for invariant in invariants {
        let rows: Vec<_> = invariant.rows.projections().iter().map(|rows| rows.name).collect();
        let rule = format!("invariant: no commit leaves rows of {} wrong: it is refused", rows.join(" and "));
        page(book, &invariant.about, vec![("Rule", rule)]);
    }
}

fn page(book: &mut String, about: &Described, more: Vec<(&'static str, String)>) {
    book.push_str(&format!("\n## {}\n\n{}\n\n", plain(&about.id), plain(&about.means)));
    let told = [("Severity", severity(about.severity).to_owned()), ("Owner", about.owner.to_string())];
    let lines = told.into_iter().chain(more);
    lines.for_each(|(name, text)| book.push_str(&format!("- {name}: {}\n", plain(&text))));
    book.push_str("\nWhat to do:\n\n");
    match steps(&about.remedy) {
        RemedySteps::Numbered(steps) => {
            for (index, step) in steps.iter().enumerate() {
                book.push_str(&format!("{}. {}\n", index + 1, plain(step)));
            }
        }
        RemedySteps::Text(text) => book.push_str(&format!("{}\n", plain(text))),
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Page => "page: somebody looks at it now",
        Severity::Ticket => "ticket: somebody looks at it on a working day",
        Severity::Note => "note: for the record",
    }
}

impl Check {
    /// Returns its condition, in a sentence.
    pub(crate) fn in_words(&self) -> String {
        let Rule { word, window, n, .. } = self.rule;
        let asks = match word {
            Word::Existence => format!("each key has at least {n} A"),
            Word::Absence => format!("each key has fewer than {n} A"),
            Word::Exactly => format!("each key has exactly {n} A"),
            Word::Init => "the first event of each key is an A".to_owned(),
            Word::End => "the last event of each key is an A".to_owned(),
            Word::NotCoexistence => "no key has both an A and a B".to_owned(),
            Word::RespondedExistence => "for each A there is a B, before or after it".to_owned(),
            Word::Response => "after each A comes a B".to_owned(),
            Word::Precedence => "before each B came an A".to_owned(),
            Word::Succession => "after each A comes a B, and before each B came an A".to_owned(),
            Word::AlternateResponse => "after each A comes a B, before the next A".to_owned(),
            Word::AlternatePrecedence => "before each B came an A, after the B before it".to_owned(),
            Word::ChainResponse => "the event after each A is a B".to_owned(),
            Word::ChainPrecedence => "the event before each B is an A".to_owned(),
            Word::NotResponse => "after an A comes no B".to_owned(),
            Word::NotPrecedence => "before a B came no A".to_owned(),
            Word::NotChainResponse => "the event after an A is no B".to_owned(),
            Word::AbsentBetween => "after an A comes no B, until its scope ends".to_owned(),
            Word::EachClosedBy => "each A is closed by a B of its own".to_owned(),
            Word::Balances => "what the events of a key add comes to 0".to_owned(),
            Word::Equals => "what an event says of its key is what its events add up to".to_owned(),
            Word::Standing if self.lens.rowed().is_some() => {
                "what is wrong with rows is put right".to_owned()
            }
            Word::Standing => "what an A switches on is switched off by a B".to_owned(),
        };
        let mut words = format!("{word}: {asks}");
        if let Some(Window { from, to }) = window {
            let text = length_text;
            words.push_str(&match (from, to) {
                (Length::Exact(0), None) => String::new(),
                (Length::Exact(0), Some(to)) => format!(", within {}", text(to)),
                (from, Some(to)) => format!(", {} to {} apart", text(from), text(to)),
                (from, None) => format!(", at least {} apart", text(from)),
            });
        }
        match self.lens.families() {
            families if families.is_empty() => words.push_str("; of all events"),
            families => words.push_str(&format!("; of {}", families.join(", "))),
        }
        if let Clocked::Events { lateness, .. } = self.clocked {
            words.push_str(&format!("; by the time they say, told at most {} late", time_text(lateness)));
        }
        words
    }
}

enum RemedySteps<'t> {
    Numbered(Vec<&'t str>),
    Text(&'t str),
}

/// Splits steps that are numbered from 1, in order: `1 look; 2 mend`, or a line for each.
fn steps(text: &str) -> RemedySteps<'_> {
    let Some(mut rest) = numbered(text.trim(), 1) else { return RemedySteps::Text(text) };
    let mut steps = Vec::new();
    loop {
        let ends = rest.match_indices([';', '\n', '.', ',']).map(|(at, _)| at);
        let wanted = steps.len() + 2;
        let next = ends.filter_map(|at| Some((at, numbered(rest[at + 1..].trim_start(), wanted)?))).next();
        let end = |step: &'_ str| step.trim().trim_end_matches(';').trim_end().len();
        match next {
            Some((at, after)) => {
                let step = rest[..at].trim_start();
                steps.push(&step[..end(step).min(step.len())]);
                rest = after;
            }
            None => {
                let step = rest.trim_start();
                steps.push(&step[..end(step)]);
                return RemedySteps::Numbered(steps);
            }
        }
    }
}

/// Returns the text after this number. `None` if the text does not begin with it.
fn numbered(text: &str, number: usize) -> Option<&str> {
    let rest = text.strip_prefix(&number.to_string())?;
    let rest = rest.strip_prefix(['.', ')', ':']).unwrap_or(rest);
    rest.starts_with([' ', '\t']).then(|| rest.trim_start())
}

/// Returns a text on one line, with all Markdown escaped.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // These have a meaning at the start of a line only: a list, its number, a heading, a rule.
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    for (index, character) in line.char_indices() {
        let begins = index == 0 && matches!(character, '-' | '+' | '=');
        let numbers = digits > 0 && index == digits && matches!(character, '.' | ')');
        if begins
            || numbers
            || matches!(
                character,
                '\\' | '`'
                    | '*'
                    | '_'
                    | '{'
                    | '}'
                    | '['
                    | ']'
                    | '<'
                    | '>'
                    | '#'
                    | '|'
                    | '~'
                    | '&'
                    | '!'
                    | '$'
            )
        {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        match steps(text) {
            RemedySteps::Numbered(steps) => steps,
            RemedySteps::Text(_) => Vec::new(),
        }
    }

    #[test]
    fn steps_split_only_at_consecutive_numbers() {
        assert_eq!(split("1 look; 2 mend"), ["look", "mend"]);
        assert_eq!(split("1. look\n2. mend\n"), ["look", "mend"]);
        assert_eq!(split("1) pay 2 bills; or 3, at most; 2) mend."), ["pay 2 bills; or 3, at most", "mend."]);
        assert_eq!(split("1 only this"), ["only this"]);
        assert_eq!(split("1 a; 3 b"), ["a; 3 b"]);
        assert_eq!(split("1 a; 2 b;"), ["a", "b"]);
        assert!(split("look, then mend").is_empty());
        assert!(split("10 times a day").is_empty());
        assert!(split("1st look").is_empty());
    }

    #[test]
    fn plain_escapes_markdown_into_one_line() {
        assert_eq!(plain("a *b* <i>\n# c"), r"a \*b\* \<i\> \# c");
        assert_eq!(plain("- 1. x"), r"\- 1. x");
        assert_eq!(plain("12. x"), r"12\. x");
        assert_eq!(plain("3-4 (b)"), "3-4 (b)");
    }
}
