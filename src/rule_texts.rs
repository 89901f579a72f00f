//! Texts of rule files that could be read, as the store's own events hold them: a file that turns bad while the store is closed
//! leaves the rule standing that it held before.

use crate::own::Own;
use crate::projection::{Folded, Projection, Rows};
use serde::{Deserialize, Serialize};

/// A text that was taken, with what its folder said in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleText {
    pub text: String,
    pub owner: Option<String>,
    pub severity: Option<String>,
}

/// The last text of each file of rules, by its path.
pub(crate) struct RuleTexts;

impl Projection for RuleTexts {
    const NAME: &'static str = "tallystone.rule_texts";
    type Event = Own;
    type Key = String;
    type Row = RuleText;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Own::RulesTaken { file, text, owner, severity } => {
                let (text, owner, severity) = (text.clone(), owner.clone(), severity.clone());
                rows.put(file.clone(), RuleText { text, owner, severity })
            }
            Own::RulesRemoved { file } => rows.remove(file),
            _ => Ok(()),
        }
    }
}
