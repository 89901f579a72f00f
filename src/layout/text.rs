//! Layouts as text, both ways.
//!
//! - `parse(print(x)) == x`; a text that would print otherwise is refused, so texts can be compared.
//! - Length, depth and parts are bounded before anything is built.
//!
//! ```text
//! layout  := bool | i8 .. u128 | f32 | f64 | char | str | bytes | unit
//!          | '?' layout | '[' layout ']' | '[' layout ';' count ']' | 'map<' layout ',' layout '>'
//!          | '(' ')' | '(' layout ',' ')' | '(' layout (',' layout)+ ')'
//!          | '{' (name ':' layout),* '}' | '<' variant '|'* '>' | '^' count
//! variant := name                        of nothing
//!          | name '{' .. '}' | name '(' layout (',' layout)+ ')' | name '(' ')'   of a struct, of a tuple
//!          | name '(' layout ')'         of anything else
//! name    := letter (letter | digit | '_' | '-')*  |  '"' any char, with '\' before '"' and '\' '"'
//! ```

use super::{Layout, PARTS_MAX, TEXT_BYTES_MAX};
use crate::codec::DEPTH_MAX;
use crate::misfit::LayoutError;
use std::fmt::{self, Display, Write};
use std::sync::Arc;

const PLAIN: [(&str, Layout); 17] = [
    ("bool", Layout::Bool),
    ("i8", Layout::I8),
    ("i16", Layout::I16),
    ("i32", Layout::I32),
    ("i64", Layout::I64),
    ("i128", Layout::I128),
    ("u8", Layout::U8),
    ("u16", Layout::U16),
    ("u32", Layout::U32),
    ("u64", Layout::U64),
    ("u128", Layout::U128),
    ("f32", Layout::F32),
    ("f64", Layout::F64),
    ("char", Layout::Char),
    ("str", Layout::Str),
    ("bytes", Layout::Bytes),
    ("unit", Layout::Unit),
];

// Print

pub(super) fn print(layout: &Layout, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match layout {
        Layout::Option(inner) => write!(f, "?{inner}"),
        Layout::Seq(inner) => write!(f, "[{inner}]"),
        Layout::Array(inner, count) => write!(f, "[{inner};{count}]"),
        Layout::Map(key, value) => write!(f, "map<{key},{value}>"),
        Layout::Tuple(parts) => print_tuple(parts, f),
        Layout::Struct(fields) => print_fields(fields, f),
        Layout::Enum(variants) => print_variants(variants, f),
        Layout::Ref(up) => write!(f, "^{up}"),
        plain => {
            let named = PLAIN.iter().find(|(_, other)| other == plain);
            f.write_str(named.expect("every other layout is in the table").0)
        }
    }
}

fn print_tuple(parts: &[Layout], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('(')?;
    for (index, part) in parts.iter().enumerate() {
        f.write_str(if index > 0 { "," } else { "" })?;
        part.fmt(f)?;
    }
    f.write_str(if parts.len() == 1 { ",)" } else { ")" })
}

fn print_fields(fields: &[(Arc<str>, Layout)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('{')?;
    for (index, (name, layout)) in fields.iter().enumerate() {
        f.write_str(if index > 0 { "," } else { "" })?;
        print_name(name, f)?;
        write!(f, ":{layout}")?;
    }
    f.write_char('}')
}

fn print_variants(variants: &[(Arc<str>, Layout)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('<')?;
    for (index, (name, layout)) in variants.iter().enumerate() {
        f.write_str(if index > 0 { "|" } else { "" })?;
        print_name(name, f)?;
        match layout {
            Layout::Unit => {}
            Layout::Struct(_) => layout.fmt(f)?,
            Layout::Tuple(parts) if parts.len() != 1 => layout.fmt(f)?,
            other => write!(f, "({other})")?,
        }
    }
    f.write_char('>')
}

fn print_name(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut chars = name.chars();
    if chars.next().is_some_and(begins_name) && chars.all(in_name) {
        return f.write_str(name);
    }
    f.write_char('"')?;
    for character in name.chars() {
        f.write_str(if matches!(character, '"' | '\\') { "\\" } else { "" })?;
        f.write_char(character)?;
    }
    f.write_char('"')
}

fn begins_name(character: char) -> bool {
    character.is_alphabetic() || character == '_'
}

fn in_name(character: char) -> bool {
    begins_name(character) || character.is_numeric() || character == '-'
}

// Parse

pub(super) fn parse(text: &str) -> Result<Layout, LayoutError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(LayoutError::new(format!("a layout of {} bytes, limit is {TEXT_BYTES_MAX}", text.len())));
    }
    let mut parser = Parser { rest: text, bytes: text.len(), depth: 0, parts: 0 };
    let layout = parser.layout()?;
    if !parser.rest.is_empty() {
        return parser.wrong("nothing more");
    }
    if layout.to_string() != text {
        return Err(LayoutError::new("the text of a layout is not as it would be written"));
    }
    Ok(layout)
}

struct Parser<'t> {
    rest: &'t str,
    bytes: usize,
    depth: u32,
    parts: usize,
}

impl<'t> Parser<'t> {
    fn wrong<T>(&self, wanted: &str) -> Result<T, LayoutError> {
        let at = self.bytes - self.rest.len();
        Err(LayoutError::new(format!("the text of a layout is damaged at byte {at}: {wanted} wanted")))
    }

    fn take(&mut self, token: &str) -> bool {
        self.rest.strip_prefix(token).inspect(|rest| self.rest = rest).is_some()
    }

    fn want(&mut self, token: &str) -> Result<(), LayoutError> {
        if self.take(token) { Ok(()) } else { self.wrong(token) }
    }

    fn layout(&mut self) -> Result<Layout, LayoutError> {
        self.parts += 1;
        self.depth += 1;
        if self.parts > PARTS_MAX || self.depth > DEPTH_MAX {
            return self.wrong("a smaller layout");
        }
        let layout = self.inside()?;
        self.depth -= 1;
        Ok(layout)
    }

    fn boxed(&mut self) -> Result<Box<Layout>, LayoutError> {
        self.layout().map(Box::new)
    }

    fn inside(&mut self) -> Result<Layout, LayoutError> {
        if self.take("?") {
            return Ok(Layout::Option(self.boxed()?));
        }
        if self.take("^") {
            return Ok(Layout::Ref(self.count()?));
        }
        if self.take("[") {
            return self.sequence();
        }
        if self.take("map<") {
            let key = self.boxed()?;
            self.want(",")?;
            let value = self.boxed()?;
            self.want(">")?;
            return Ok(Layout::Map(key, value));
        }
        if self.take("(") {
            return self.tuple(false);
        }
        if self.take("{") {
            return self.fields();
        }
        if self.take("<") {
            return self.variants();
        }
        self.plain()
    }

    fn plain(&mut self) -> Result<Layout, LayoutError> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let Some((_, layout)) = PLAIN.iter().find(|(name, _)| *name == word) else {
            return self.wrong("a type");
        };
        self.rest = rest;
        Ok(layout.clone())
    }

    fn count(&mut self) -> Result<u32, LayoutError> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        let Ok(count) = digits.parse() else { return self.wrong("a number") };
        self.rest = rest;
        Ok(count)
    }

    fn sequence(&mut self) -> Result<Layout, LayoutError> {
        let inner = self.boxed()?;
        if self.take("]") {
            return Ok(Layout::Seq(inner));
        }
        self.want(";")?;
        let count = self.count()?;
        self.want("]")?;
        Ok(if count < 3 { Layout::Tuple(Vec::new()) } else { Layout::Array(inner, count) })
    }

    /// Reads a tuple after its `(`. In a variant, a single layout is the content of the variant.
    fn tuple(&mut self, of_variant: bool) -> Result<Layout, LayoutError> {
        let mut parts = Vec::new();
        let mut comma = true;
        while !self.take(")") {
            if !comma {
                return self.wrong(") or ,");
            }
            parts.push(self.layout()?);
            comma = self.take(",");
        }
        if of_variant && !comma && parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        Ok(Layout::tuple(parts))
    }

    fn fields(&mut self) -> Result<Layout, LayoutError> {
        let mut fields = Vec::new();
        while !self.take("}") {
            if !fields.is_empty() {
                self.want(",")?;
            }
            let name = self.name()?;
            self.want(":")?;
            fields.push((name, self.layout()?));
        }
        Ok(Layout::Struct(fields))
    }

    fn variants(&mut self) -> Result<Layout, LayoutError> {
        let mut variants = Vec::new();
        while !self.take(">") {
            if !variants.is_empty() {
                self.want("|")?;
            }
            let name = self.name()?;
            self.parts += 1;
            variants.push((name, self.content()?));
        }
        Ok(Layout::Enum(variants))
    }

    fn content(&mut self) -> Result<Layout, LayoutError> {
        if self.parts > PARTS_MAX {
            return self.wrong("a smaller layout");
        }
        if self.rest.starts_with('{') {
            return self.layout();
        }
        if self.take("(") { self.tuple(true) } else { Ok(Layout::Unit) }
    }

    fn name(&mut self) -> Result<Arc<str>, LayoutError> {
        if self.take("\"") {
            return self.quoted();
        }
        let end = self.rest.find(|c: char| !in_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if !name.starts_with(begins_name) {
            return self.wrong("a name");
        }
        self.rest = rest;
        Ok(Arc::from(name))
    }

    fn quoted(&mut self) -> Result<Arc<str>, LayoutError> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, character)) = chars.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Arc::from(name));
                }
                '\\' => match chars.next() {
                    Some((_, escaped)) => name.push(escaped),
                    None => break,
                },
                plain => name.push(plain),
            }
        }
        self.wrong("the end of a name")
    }
}
