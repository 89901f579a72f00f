//! The trace: a type is asked to read itself from nothing, and what it asks for is its layout.
//!
//! - Types form a graph: a node per composite type, told apart by serde's visitor type. A pass reads one value, picks
//!   in each enum a variant it has not seen, and goes on until no pass can see more.
//! - A node that is already being read (recursion) is given the least value that ends: no option, no element, the
//!   variant that is done.
//! - A type may refuse a sample. A pass that fails leaves no trace; it is tried again with another sample in one of
//!   the places it had read, and a sample that gets further stays.
//! - Bounded: steps of a pass, depth, passes, tries. A type that is too much is refused by name.
//!
//! Serde shows visitors, not types, and one question at a time. Names with aliases take passes of their own, which
//! end with the answer (`Stop::Again`).

use super::erased::{ErasedType, Sample};
use super::{Layout, PARTS_MAX, Samples};
use crate::misfit::LayoutError;
use crate::reflect;
use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use std::any::type_name;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

const STEPS_MAX: usize = 100_000;
const PASSES_MAX: usize = 20_000;
const DEPTH_MAX: usize = 96;
const SAMPLES_MAX: usize = 256;
/// Maximum number of places in which a refused value is looked for, the last first.
const TRAIL_MAX: usize = 40;

/// Result of a trace.
pub(super) struct Traced<'v> {
    of: ErasedType<'v>,
    tracer: Tracer,
    root: Shape,
    /// One value for each pass that saw something new, and one for each type in which that is as bare as can be: parts that a
    /// bare value leaves out (`skip_serializing_if`) are seen when it is written.
    pub(super) samples: Vec<Sample<'v>>,
}

/// Traces a type completely.
/// Offers the given samples as well to a type that refuses the usual ones.
pub(super) fn trace<'v>(of: ErasedType<'v>, given: &Samples) -> Result<Traced<'v>, LayoutError> {
    let mut tracer = Tracer { given: given.clone(), ..Tracer::default() };
    let mut samples = Vec::new();
    let mut root = None;
    loop {
        let before = (tracer.graph.nodes.len(), tracer.graph.unseen());
        let value = tracer.fitting(of, &mut root)?;
        value.variants(&mut |of, variant| {
            tracer.written.insert((of, variant));
        });
        if samples.len() < SAMPLES_MAX {
            samples.push(value);
        }
        let after = (tracer.graph.nodes.len(), tracer.graph.unseen());
        if after.1 == 0 {
            break;
        }
        if after == before {
            return Err(LayoutError::new("a part of the type is never reached").of(of.name));
        }
    }
    samples.extend(tracer.bare(of));
    let root = root.ok_or_else(|| LayoutError::new("the type asks for nothing").of(of.name))?;
    Ok(Traced { of, tracer, root, samples })
}

impl<'v> Traced<'v> {
    pub(super) fn layout(&self) -> Result<Layout, LayoutError> {
        let mut unfold = Unfold { tracer: &self.tracer, around: Vec::new(), parts: 0 };
        unfold.layout(&self.root).map_err(|e| e.of(self.of.name))
    }

    /// Returns more values: each place in turn with other samples.
    pub(super) fn varied(mut self) -> Vec<Sample<'v>> {
        let mut values = Vec::new();
        let mut out = None;
        if self.tracer.pass(self.of, &mut out).is_err() {
            return values;
        }
        for (place, samples) in self.tracer.trail.clone() {
            let usual = self.tracer.choices.get(&place).copied();
            for choice in 0..samples.min(4) {
                self.tracer.choices.insert(place, choice);
                values.extend(self.tracer.pass(self.of, &mut out).ok());
            }
            self.tracer.choices.insert(place, usual.unwrap_or(0));
        }
        values.truncate(SAMPLES_MAX);
        values
    }
}

// The graph

#[derive(Clone, Debug)]
enum Shape {
    Leaf(Layout),
    Node(usize),
}

/// A composite type. `None` if it has not been seen yet.
#[derive(Clone, Debug)]
enum TypeNode {
    Option(Option<Shape>),
    Seq(Option<Shape>),
    Map(Option<(Shape, Shape)>),
    Tuple(Option<Vec<Shape>>),
    Struct(Option<Vec<(Arc<str>, Shape)>>),
    Enum { name: &'static str, key: TypeKey, variants: Vec<Option<VariantContent>> },
}

/// Content of a variant.
#[derive(Clone, Debug)]
enum VariantContent {
    Unit,
    Newtype(Shape),
    Tuple(Vec<Shape>),
    Struct(Vec<(Arc<str>, Shape)>),
}

impl VariantContent {
    fn shapes(&self) -> Vec<&Shape> {
        match self {
            VariantContent::Unit => Vec::new(),
            VariantContent::Newtype(shape) => vec![shape],
            VariantContent::Tuple(shapes) => shapes.iter().collect(),
            VariantContent::Struct(fields) => fields.iter().map(|(_, shape)| shape).collect(),
        }
    }
}

impl TypeNode {
    fn unseen(&self) -> usize {
        match self {
            TypeNode::Option(None)
            | TypeNode::Seq(None)
            | TypeNode::Map(None)
            | TypeNode::Tuple(None)
            | TypeNode::Struct(None) => 1,
            TypeNode::Enum { variants, .. } => variants.iter().filter(|content| content.is_none()).count(),
            _ => 0,
        }
    }

    fn shapes(&self) -> Vec<&Shape> {
        match self {
            TypeNode::Option(shape) | TypeNode::Seq(shape) => shape.iter().collect(),
            TypeNode::Map(entry) => entry.iter().flat_map(|(key, value)| [key, value]).collect(),
            TypeNode::Tuple(shapes) => shapes.iter().flatten().collect(),
            TypeNode::Struct(fields) => fields.iter().flatten().map(|(_, shape)| shape).collect(),
            TypeNode::Enum { variants, .. } => {
                variants.iter().flatten().flat_map(VariantContent::shapes).collect()
            }
        }
    }
}

/// Identity of a composite type: the visitor's type, the names it came with, and the variant it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TypeKey {
    visitor: &'static str,
    names: &'static [&'static str],
    variant: Option<u32>,
}

#[derive(Clone, Default)]
struct Graph {
    ids: HashMap<TypeKey, usize>,
    nodes: Vec<TypeNode>,
}

impl Graph {
    fn unseen(&self) -> usize {
        self.nodes.iter().map(TypeNode::unseen).sum()
    }

    /// Returns the nodes from which something unseen can be reached.
    fn open(&self) -> Vec<bool> {
        self.reaching(self.nodes.iter().map(|node| node.unseen() > 0).collect())
    }

    fn leading_to(&self, wanted: usize) -> Vec<bool> {
        self.reaching((0..self.nodes.len()).map(|id| id == wanted).collect())
    }

    fn reaching(&self, mut open: Vec<bool>) -> Vec<bool> {
        loop {
            let more: Vec<usize> = (0..self.nodes.len())
                .filter(|id| {
                    !open[*id] && self.nodes[*id].shapes().into_iter().any(|shape| shape.is_in(&open))
                })
                .collect();
            if more.is_empty() {
                return open;
            }
            more.into_iter().for_each(|id| open[id] = true);
        }
    }

    /// Returns the depth of the least value of each node; `None` if none is known to end.
    fn heights(&self) -> Vec<Option<usize>> {
        let mut heights = vec![None; self.nodes.len()];
        loop {
            let better: Vec<(usize, usize)> = (0..self.nodes.len())
                .filter(|id| heights[*id].is_none())
                .filter_map(|id| self.height(&self.nodes[id], &heights).map(|height| (id, height)))
                .collect();
            if better.is_empty() {
                return heights;
            }
            better.into_iter().for_each(|(id, height)| heights[id] = Some(height));
        }
    }

    fn height(&self, node: &TypeNode, heights: &[Option<usize>]) -> Option<usize> {
        match node {
            TypeNode::Option(_) | TypeNode::Seq(_) | TypeNode::Map(_) => Some(0),
            TypeNode::Tuple(None) | TypeNode::Struct(None) => None,
            TypeNode::Tuple(_) | TypeNode::Struct(_) => highest(node.shapes(), heights),
            TypeNode::Enum { variants, .. } => {
                variants.iter().flatten().filter_map(|content| highest(content.shapes(), heights)).min()
            }
        }
        .map(|height| height + 1)
    }
}

fn highest(shapes: Vec<&Shape>, heights: &[Option<usize>]) -> Option<usize> {
    shapes.into_iter().try_fold(0, |most, shape| match shape {
        Shape::Leaf(_) => Some(most),
        Shape::Node(id) => heights[*id].map(|height| most.max(height)),
    })
}

impl Shape {
    fn is_in(&self, set: &[bool]) -> bool {
        match self {
            Shape::Leaf(_) => false,
            Shape::Node(id) => set[*id],
        }
    }
}

// Passes

/// Place of a sample: the node of its type in the graph, and the part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct SamplePlace {
    node: usize,
    variant: u32,
    part: u32,
}

/// Reason why a pass ended.
#[derive(Debug)]
pub(super) enum Stop {
    /// It answered a question; the next pass knows the answer.
    Again,
    /// The type refused a sample.
    Refused(String),
    /// A field was given twice: serde tells its true name.
    Twice(&'static str),
    /// No sample helps.
    Unfit(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the trace stopped")
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(said: T) -> Self {
        Stop::Refused(said.to_string())
    }

    fn duplicate_field(field: &'static str) -> Self {
        Stop::Twice(field)
    }
}

fn unfit<T>(what: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Unfit(what.into()))
}

/// Known facts about an enum's names, asked one pass at a time.
#[derive(Default, Clone, Debug)]
struct Variants {
    /// True if serde takes the last index. If it refuses the next, each name is a variant, and nothing more need be asked.
    last_is_taken: Option<bool>,
    next_is_taken: Option<bool>,
    /// Identity that serde gives to each index, up to the first that it refuses or that repeats one.
    by_index: Vec<u64>,
    indexes_known: bool,
    /// True if two indexes have the same identity.
    repeats: bool,
    /// Identity that serde gives to each name.
    by_name: Vec<Option<u64>>,
}

#[derive(Default)]
struct Tracer {
    given: Samples,
    graph: Graph,
    /// Answers about names: they stay if a pass fails, and so do the samples that were taken.
    variants: HashMap<TypeKey, Variants>,
    fields: HashMap<TypeKey, Vec<&'static str>>,
    choices: HashMap<SamplePlace, usize>,
    /// Names of enums, each with the name of a variant as it was written.
    written: HashSet<(&'static str, &'static str)>,
    /// Variant to be reached and read bare.
    target: Option<Target>,
    // Of one pass:
    steps: usize,
    place: SamplePlace,
    trail: Vec<(SamplePlace, usize)>,
    path: Vec<String>,
    /// Nodes being read, each with its variant if it is an enum, and whether it is read for its end alone.
    stack: Vec<Active>,
}

struct Target {
    node: usize,
    variant: u32,
    /// True for the nodes that lead to it.
    ways: Vec<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Active {
    node: usize,
    variant: u32,
    ending: bool,
}

impl Tracer {
    /// Runs one pass. The nodes it saw stay if it succeeds.
    fn pass<'v>(&mut self, of: ErasedType<'v>, root: &mut Option<Shape>) -> Result<Sample<'v>, Stop> {
        for _ in 0..PASSES_MAX {
            let before = self.graph.clone();
            self.steps = 0;
            self.place = SamplePlace { node: usize::MAX, ..SamplePlace::default() };
            self.trail.clear();
            self.path.clear();
            self.stack.clear();
            let done = (of.read)(Ask { tracer: self, out: root });
            if done.is_err() {
                self.graph = before;
            }
            match done {
                Err(Stop::Again) => {}
                Err(Stop::Twice(field)) => return Err(Stop::Refused(format!("duplicate field `{field}`"))),
                done => return done,
            }
        }
        unfit("the type is too large to trace")
    }

    /// Runs passes until the type takes the samples.
    fn fitting<'v>(
        &mut self,
        of: ErasedType<'v>,
        root: &mut Option<Shape>,
    ) -> Result<Sample<'v>, LayoutError> {
        let mut said = match self.pass(of, root) {
            Ok(value) => return Ok(value),
            Err(Stop::Refused(said)) => said,
            Err(stop) => return Err(self.told(stop, of.name)),
        };
        let first = (self.path.clone(), said.clone());
        loop {
            match self.further(of, root) {
                SampleResult::Fits(value) => return Ok(value),
                SampleResult::Further(refused) => said = refused,
                SampleResult::Never => {
                    // The type was hardest to please at the place where it ended; the first refusal says it best.
                    let (path, said) =
                        if self.path.len() >= first.0.len() { (self.path.clone(), said) } else { first };
                    let what = format!(
                        "the type refuses every sample that is known (\"{said}\"): give values that it takes, by `samples()`"
                    );
                    return Err(LayoutError::new(what).of(of.name).along(path));
                }
                SampleResult::Stopped(stop) => return Err(self.told(stop, of.name)),
            }
        }
    }

    fn told(&self, stop: Stop, of: &str) -> LayoutError {
        let what = match stop {
            Stop::Unfit(what) | Stop::Refused(what) => what,
            Stop::Again | Stop::Twice(_) => "the type cannot be traced".to_owned(),
        };
        LayoutError::new(what).of(of).along(self.path.clone())
    }

    /// Tries another sample in one of the last places, then in two of them.
    fn further<'v>(&mut self, of: ErasedType<'v>, root: &mut Option<Shape>) -> SampleResult<'v> {
        let reached = self.progress();
        let places: Vec<_> = self.trail.iter().rev().take(TRAIL_MAX).copied().collect();
        let kept = (self.choices.clone(), self.path.clone());
        let pairs =
            (0..places.len().min(4)).flat_map(|a| (a + 1..places.len().min(4)).map(move |b| (a, Some(b))));
        for (a, b) in (0..places.len()).map(|a| (a, None)).chain(pairs) {
            let (place, samples) = places[a];
            for choice in 0..samples {
                for other in 0..b.map_or(1, |b| places[b].1) {
                    self.choices.insert(place, choice);
                    b.map(|b| self.choices.insert(places[b].0, other));
                    match self.pass(of, root) {
                        Ok(value) => return SampleResult::Fits(value),
                        Err(Stop::Refused(said)) if self.progress() > reached => {
                            return SampleResult::Further(said);
                        }
                        Err(Stop::Refused(_)) => self.choices.clone_from(&kept.0),
                        Err(stop) => return SampleResult::Stopped(stop),
                    }
                }
            }
        }
        self.path = kept.1;
        SampleResult::Never
    }

    /// Returns the progress of the last pass. Answers are kept, so one more counts for more than any number of samples.
    fn progress(&self) -> (usize, usize) {
        (self.fields.values().map(|known| known.len() + 1).sum(), self.trail.len())
    }

    /// For each composite type, and each variant, a value in which it has no option, no element and no zero exceeded.
    fn bare<'v>(&mut self, of: ErasedType<'v>) -> Vec<Sample<'v>> {
        let count = |node: &TypeNode| match node {
            TypeNode::Enum { variants, .. } => variants.len(),
            _ => 1,
        };
        let counts: Vec<usize> = self.graph.nodes.iter().map(count).collect();
        let mut values = Vec::new();
        for (node, variants) in counts.into_iter().enumerate() {
            let ways = self.graph.leading_to(node);
            for variant in (0..u32::try_from(variants).unwrap_or(u32::MAX)).take(SAMPLES_MAX) {
                self.target = Some(Target { node, variant, ways: ways.clone() });
                // A type may refuse to be bare.
                values.extend(self.pass(of, &mut None).ok());
            }
        }
        self.target = None;
        values
    }

    fn step(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        if self.steps > STEPS_MAX { unfit("the type is too large to trace") } else { Ok(()) }
    }

    /// Returns the index of the sample that is due here.
    fn choose(&mut self, samples: usize) -> usize {
        self.trail.push((self.place, samples));
        self.choices.get(&self.place).copied().unwrap_or(0).min(samples - 1)
    }

    /// Returns the number of elements that are due here.
    fn count(&mut self) -> usize {
        let index = self.choose(COUNTS.len() + self.given.counts.len());
        // A given list may be long: so many of its elements are enough.
        COUNTS.get(index).copied().unwrap_or_else(|| self.given.counts[index - COUNTS.len()].min(1024))
    }

    fn node(&mut self, key: TypeKey, new: TypeNode) -> usize {
        *self.graph.ids.entry(key).or_insert_with(|| {
            self.graph.nodes.push(new);
            self.graph.nodes.len() - 1
        })
    }

    fn is_active(&self, node: usize) -> bool {
        self.stack.iter().any(|active| active.node == node)
    }

    fn is_ending(&self) -> bool {
        self.stack.last().is_some_and(|active| active.ending)
    }

    fn enter(&mut self, node: usize, variant: u32, ending: bool) -> Result<(), Stop> {
        self.step()?;
        let is_target = self.target.as_ref().is_some_and(|t| t.node == node && t.variant == variant);
        let ending = ending || is_target || self.is_ending();
        self.stack.push(Active { node, variant, ending });
        if self.stack.len() > DEPTH_MAX {
            unfit(format!("the type nests deeper than {DEPTH_MAX} levels"))
        } else {
            Ok(())
        }
    }

    /// Reads one part of the node that was entered last, and returns its shape.
    fn part<'de, S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
        part: u32,
        name: &str,
    ) -> Result<(S::Value, Shape), Stop> {
        let outer = self.begin_part(part, name);
        let mut out = None;
        let value = seed.deserialize(Ask { tracer: self, out: &mut out })?;
        Ok((value, self.end_part(outer, out)?))
    }

    fn begin_part(&mut self, part: u32, name: &str) -> SamplePlace {
        let active =
            self.stack.last().copied().unwrap_or(Active { node: usize::MAX, variant: 0, ending: false });
        self.path.push(name.to_owned());
        std::mem::replace(&mut self.place, SamplePlace { node: active.node, variant: active.variant, part })
    }

    fn end_part(&mut self, outer: SamplePlace, out: Option<Shape>) -> Result<Shape, Stop> {
        self.path.pop();
        self.place = outer;
        out.ok_or_else(|| Stop::Unfit("a part of the type asks for nothing".into()))
    }

    /// Returns the variant to read: one not seen, else one that leads to something not seen, else the one that ends soonest.
    /// Returns also whether it is read for its end alone.
    fn variant(&self, id: usize) -> Result<(u32, bool), Stop> {
        let TypeNode::Enum { variants, .. } = &self.graph.nodes[id] else {
            return unfit("an enum that is none");
        };
        let indexes = || (0u32..).zip(variants);
        let is_active = |index: u32| self.stack.iter().any(|a| a.node == id && a.variant == index);
        if let Some(target) = self.target.as_ref().filter(|_| !self.is_ending()) {
            let leads = |content: &VariantContent| {
                content.shapes().into_iter().any(|shape| shape.is_in(&target.ways))
            };
            let next =
                indexes().find(|(index, content)| content.as_ref().is_some_and(leads) && !is_active(*index));
            match next {
                _ if target.node == id => return Ok((target.variant, false)),
                Some((index, _)) => return Ok((index, false)),
                None => {}
            }
        } else if !self.is_ending() {
            if let Some((index, _)) =
                indexes().find(|(index, content)| content.is_none() && !is_active(*index))
            {
                return Ok((index, false));
            }
            let open = self.graph.open();
            let leads =
                |content: &VariantContent| content.shapes().into_iter().any(|shape| shape.is_in(&open));
            let next =
                indexes().find(|(index, content)| content.as_ref().is_some_and(leads) && !is_active(*index));
            if let Some((index, _)) = next {
                return Ok((index, false));
            }
        }
        let heights = self.graph.heights();
        let ends = indexes()
            .filter_map(|(index, content)| Some((highest(content.as_ref()?.shapes(), &heights)?, index)))
            .min();
        if let Some((_, index)) = ends {
            return Ok((index, self.is_ending()));
        }
        let is_ending =
            |index: u32| self.stack.iter().any(|a| a.node == id && a.variant == index && a.ending);
        match indexes().find(|(index, _)| !is_ending(*index)) {
            Some((index, _)) => Ok((index, true)),
            None => unfit("the type has no value that ends"),
        }
    }
}

enum SampleResult<'v> {
    Fits(Sample<'v>),
    /// It took a sample in place of the refused one, and refused something later.
    Further(String),
    Never,
    Stopped(Stop),
}

/// Deserializer of a trace: it records each question, and answers it with a sample.
pub(super) struct Ask<'t> {
    tracer: &'t mut Tracer,
    out: &'t mut Option<Shape>,
}

const TAG_AND_CONTENT: &str =
    "`#[serde(tag, content)]` cannot be carried: what the content is depends on the tag";
const COUNTS: [usize; 10] = [1, 0, 2, 3, 4, 5, 8, 12, 16, 32];
const UNSIGNED: [u8; 18] = [0, 1, 2, 3, 4, 5, 7, 8, 10, 12, 16, 20, 24, 31, 32, 64, 100, 200];
const SIGNED: [i8; 14] = [0, 1, -1, 2, 3, 4, 5, 7, 8, 10, 12, 31, 64, 100];
const FLOATS: [f32; 5] = [0.0, 1.0, 0.5, -1.0, 100.0];
const CHARS: [char; 5] = ['a', 'A', '0', '/', ' '];
const TEXTS: [&str; 32] = [
    "",
    "a",
    "0",
    "1",
    "A",
    "aa",
    "AA",
    "AAA",
    "EUR",
    "en",
    "en-US",
    "true",
    "2000-01-01",
    "2000-01-01T00:00:00Z",
    "2000-01-01T00:00:00",
    "2000-01-01T00:00:00+00:00[UTC]",
    "00:00:00",
    "1s",
    "PT1S",
    "UTC",
    "+00:00",
    "00000000-0000-0000-0000-000000000000",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "127.0.0.1",
    "::1",
    "127.0.0.1:80",
    "127.0.0.0/8",
    "a@a.aa",
    "https://a.aa/",
    "1.0.0",
    "1.0",
    "+15551234567",
];
const ZEROS: [u8; 64] = [0; 64];
const BYTE_COUNTS: [usize; 12] = [0, 1, 2, 4, 8, 12, 16, 20, 24, 32, 33, 64];

impl Ask<'_> {
    fn leaf<S: Copy>(&mut self, layout: Layout, samples: &[S]) -> Result<S, Stop> {
        self.leaf_of(layout, samples.len()).map(|index| samples[index])
    }

    /// Returns the index of the sample that is due.
    fn leaf_of(&mut self, layout: Layout, samples: usize) -> Result<usize, Stop> {
        self.tracer.step()?;
        *self.out = Some(Shape::Leaf(layout));
        Ok(self.tracer.choose(samples))
    }

    fn composite(
        &mut self,
        visitor: &'static str,
        names: &'static [&'static str],
        new: TypeNode,
    ) -> (usize, TypeKey) {
        let key = TypeKey { visitor, names, variant: None };
        let id = self.tracer.node(key, new);
        *self.out = Some(Shape::Node(id));
        (id, key)
    }
}

impl Ask<'_> {
    /// Enters an enum. Returns its node, and the variant to be read.
    fn enter_enum(&mut self, name: &'static str, key: TypeKey) -> Result<(usize, u32), Stop> {
        let count = self.tracer.variants.entry(key).or_default().count(key.names);
        if count == 0 {
            return unfit("the type has no variant that can be picked by number");
        }
        let node = TypeNode::Enum { name, key, variants: vec![None; count] };
        let (id, _) = self.composite(key.visitor, key.names, node);
        let (index, ending) = self.tracer.variant(id)?;
        self.tracer.enter(id, index, ending)?;
        Ok((id, index))
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $layout:ident $t:ty, $samples:ident;)*) => { $(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
            let given = self.tracer.given.integers.iter().filter_map(|given| <$t>::try_from(*given).ok());
            let samples: Vec<$t> = $samples.iter().map(|sample| (*sample).into()).chain(given).collect();
            visitor.$visit(self.leaf(Layout::$layout, &samples)?)
        }
    )* };
}

impl<'de> Deserializer<'de> for Ask<'_> {
    type Error = Stop;

    integers! {
        deserialize_u8 visit_u8 U8 u8, UNSIGNED; deserialize_u16 visit_u16 U16 u16, UNSIGNED;
        deserialize_u32 visit_u32 U32 u32, UNSIGNED; deserialize_u64 visit_u64 U64 u64, UNSIGNED;
        deserialize_u128 visit_u128 U128 u128, UNSIGNED; deserialize_i8 visit_i8 I8 i8, SIGNED;
        deserialize_i16 visit_i16 I16 i16, SIGNED; deserialize_i32 visit_i32 I32 i32, SIGNED;
        deserialize_i64 visit_i64 I64 i64, SIGNED; deserialize_i128 visit_i128 I128 i128, SIGNED;
    }

    fn deserialize_f32<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let given = self.tracer.given.floats().map(|given| given as f32);
        let samples: Vec<f32> = FLOATS.into_iter().chain(given).collect();
        visitor.visit_f32(self.leaf(Layout::F32, &samples)?)
    }

    fn deserialize_f64<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let given = self.tracer.given.floats();
        let samples: Vec<f64> = FLOATS.into_iter().map(f64::from).chain(given).collect();
        visitor.visit_f64(self.leaf(Layout::F64, &samples)?)
    }

    fn deserialize_char<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let samples: Vec<char> = CHARS.into_iter().chain(self.tracer.given.chars()).collect();
        visitor.visit_char(self.leaf(Layout::Char, &samples)?)
    }

    fn deserialize_str<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let count = TEXTS.len() + self.tracer.given.texts.len();
        let index = self.leaf_of(Layout::Str, count)?;
        match TEXTS.get(index) {
            Some(text) => visitor.visit_borrowed_str(text),
            None => visitor.visit_string(self.tracer.given.texts[index - TEXTS.len()].clone()),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_str(visitor)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_bool<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let sample = self.leaf(Layout::Bool, &[false, true])?;
        visitor.visit_bool(sample)
    }

    fn deserialize_bytes<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let count = BYTE_COUNTS.len() + self.tracer.given.bytes.len();
        let index = self.leaf_of(Layout::Bytes, count)?;
        match BYTE_COUNTS.get(index) {
            Some(count) => visitor.visit_borrowed_bytes(&ZEROS[..*count]),
            None => visitor.visit_byte_buf(self.tracer.given.bytes[index - BYTE_COUNTS.len()].clone()),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        unfit(reflect::asks_what_it_is(type_name::<V>()))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_any(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        let around = self.tracer.stack.last().map(|active| &self.tracer.graph.nodes[active.node]);
        unfit(if matches!(around, Some(TypeNode::Map(_))) { reflect::FLATTENED } else { TAG_AND_CONTENT })
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.tracer.step()?;
        *self.out = Some(Shape::Leaf(Layout::Unit));
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.tracer.step()?;
        visitor.visit_newtype_struct(Ask { tracer: self.tracer, out: self.out })
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let (id, _) = self.composite(type_name::<V>(), &[], TypeNode::Option(None));
        if self.tracer.is_active(id) || self.tracer.is_ending() {
            return visitor.visit_none();
        }
        self.tracer.enter(id, 0, false)?;
        let mut inner = None;
        let outer =
            std::mem::replace(&mut self.tracer.place, SamplePlace { node: id, ..SamplePlace::default() });
        let value = visitor.visit_some(Ask { tracer: self.tracer, out: &mut inner })?;
        self.tracer.place = outer;
        self.tracer.graph.nodes[id] = TypeNode::Option(inner);
        self.tracer.stack.pop();
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let (id, _) = self.composite(type_name::<V>(), &[], TypeNode::Seq(None));
        let ends = self.tracer.is_active(id) || self.tracer.is_ending();
        let count = if ends { 0 } else { self.tracer.count() };
        self.tracer.enter(id, 0, false)?;
        let mut parts = TraceAccess { tracer: self.tracer, names: &[], left: count, shapes: Vec::new() };
        let value = visitor.visit_seq(&mut parts)?;
        if let Some(shape) = parts.shapes.pop() {
            self.tracer.graph.nodes[id] = TypeNode::Seq(Some(shape));
        }
        self.tracer.stack.pop();
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stop> {
        let (id, _) = self.composite(type_name::<V>(), &[], TypeNode::Map(None));
        let ends = self.tracer.is_active(id) || self.tracer.is_ending();
        let count = if ends { 0 } else { self.tracer.count() };
        self.tracer.enter(id, 0, false)?;
        let mut parts = TraceAccess { tracer: self.tracer, names: &[], left: count, shapes: Vec::new() };
        let value = visitor.visit_map(&mut parts)?;
        if let [.., key, value] = parts.shapes.as_slice() {
            self.tracer.graph.nodes[id] = TypeNode::Map(Some((key.clone(), value.clone())));
        }
        self.tracer.stack.pop();
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value, Stop> {
        let (id, _) = self.composite(type_name::<V>(), &[], TypeNode::Tuple(None));
        self.tracer.enter(id, 0, false)?;
        let mut parts = TraceAccess { tracer: self.tracer, names: &[], left: len, shapes: Vec::new() };
        let value = visitor.visit_seq(&mut parts)?;
        let shapes = parts.shapes;
        self.tracer.graph.nodes[id] = TypeNode::Tuple(Some(shapes));
        self.tracer.stack.pop();
        Ok(value)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let (id, key) = self.composite(type_name::<V>(), fields, TypeNode::Struct(None));
        self.tracer.enter(id, 0, false)?;
        let (value, fields) = self.tracer.fields(key, fields, visitor)?;
        self.tracer.leave_struct(id, name, fields)?;
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let key = TypeKey { visitor: type_name::<V>(), names: variants, variant: None };
        let known = self.tracer.variants.entry(key).or_default();
        if let Some(question) = known.question(variants) {
            return visitor.visit_enum(Question { known, question });
        }
        let (id, index) = self.enter_enum(name, key)?;
        let mut content = None;
        let key = TypeKey { variant: Some(index), ..key };
        let value = visitor.visit_enum(Pick { tracer: self.tracer, key, index, content: &mut content })?;
        self.tracer.leave_enum(id, index, content);
        Ok(value)
    }
}

type FieldShapes = Vec<(Arc<str>, Shape)>;

impl Tracer {
    fn leave_struct(&mut self, id: usize, name: &str, fields: FieldShapes) -> Result<(), Stop> {
        if let Some((_, Shape::Node(first))) = fields.first()
            && matches!(&self.graph.nodes[*first], TypeNode::Enum { name: tag, .. } if *tag == name)
        {
            return unfit(TAG_AND_CONTENT);
        }
        self.graph.nodes[id] = TypeNode::Struct(Some(fields));
        self.stack.pop();
        Ok(())
    }

    fn leave_enum(&mut self, id: usize, index: u32, content: Option<VariantContent>) {
        if let (TypeNode::Enum { variants, .. }, Some(content)) = (&mut self.graph.nodes[id], content) {
            variants[usize::try_from(index).expect("an index of a vector")] = Some(content);
        }
        self.stack.pop();
    }

    /// Reads the fields of a struct. If it reads fewer than it names, some names are aliases: then it is asked for the
    /// true name of each, by giving the field twice.
    fn fields<'de, V: Visitor<'de>>(
        &mut self,
        key: TypeKey,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<(V::Value, FieldShapes), Stop> {
        if let Some(name) = self.fields.get(&key).and_then(|known| names.get(known.len())) {
            let twice = Twice { tracer: self, name, given: 0 };
            let taken = visitor.visit_map(twice).map(drop);
            return Err(self.told_twice(key, name, taken));
        }
        let mut parts = TraceAccess { tracer: self, names, left: names.len(), shapes: Vec::new() };
        let value = visitor.visit_seq(&mut parts)?;
        let shapes = parts.shapes;
        Ok((value, self.named(key, names, shapes)?))
    }

    /// Ends a pass in which a field was given twice.
    fn told_twice(&mut self, key: TypeKey, name: &str, taken: Result<(), Stop>) -> Stop {
        match taken {
            Err(Stop::Twice(field)) => {
                self.fields.entry(key).or_default().push(field);
                Stop::Again
            }
            Err(stop) => stop,
            Ok(()) => Stop::Unfit(format!("the type takes field `{name}` twice")),
        }
    }

    fn named(
        &mut self,
        key: TypeKey,
        names: &[&'static str],
        shapes: Vec<Shape>,
    ) -> Result<FieldShapes, Stop> {
        if shapes.len() == names.len() {
            return Ok(names.iter().map(|name| Arc::from(*name)).zip(shapes).collect());
        }
        let Some(known) = self.fields.get(&key) else {
            self.fields.insert(key, Vec::new());
            return Err(Stop::Again);
        };
        let mut names = known.clone();
        names.dedup();
        if names.len() != shapes.len() {
            return unfit("the type names other fields than it reads");
        }
        Ok(names.into_iter().map(Arc::from).zip(shapes).collect())
    }
}

/// Elements, fields or entries: each is read once and its shape kept.
struct TraceAccess<'t> {
    tracer: &'t mut Tracer,
    names: &'static [&'static str],
    left: usize,
    shapes: Vec<Shape>,
}

impl TraceAccess<'_> {
    fn one<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Stop> {
        let part = u32::try_from(self.shapes.len()).unwrap_or(u32::MAX);
        let name =
            self.names.get(self.shapes.len()).map_or_else(|| part.to_string(), |name| (*name).to_owned());
        let (value, shape) = self.tracer.part(seed, part, &name)?;
        self.shapes.push(shape);
        Ok(value)
    }
}

impl<'de> de::SeqAccess<'de> for &mut TraceAccess<'_> {
    type Error = Stop;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Stop> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        self.one(seed).map(Some)
    }
}

impl<'de> de::MapAccess<'de> for &mut TraceAccess<'_> {
    type Error = Stop;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Stop> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        self.one(seed).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Stop> {
        self.one(seed)
    }
}

/// The same field, again and again.
struct Twice<'t> {
    tracer: &'t mut Tracer,
    name: &'static str,
    given: u32,
}

impl<'de> de::MapAccess<'de> for Twice<'_> {
    type Error = Stop;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Stop> {
        self.given += 1;
        if self.given > 2 {
            return Ok(None);
        }
        let name: StrDeserializer<'_, Stop> = self.name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Stop> {
        // Its place among the fields is not known: its sample is found as for any other place.
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        let part = u32::MAX - (hasher.finish() % 1_000_000) as u32;
        self.tracer.part(seed, part, self.name).map(|(value, _)| value)
    }
}

// Enums

enum QuestionOf {
    Last(u32),
    Next(u32),
    Index(u32),
    Name(&'static str),
}

impl Variants {
    fn is_plain(&self) -> bool {
        self.last_is_taken == Some(true) && self.next_is_taken == Some(false)
    }

    fn question(&self, names: &'static [&'static str]) -> Option<QuestionOf> {
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        if self.last_is_taken.is_none() {
            return Some(QuestionOf::Last(count.saturating_sub(1)));
        }
        if self.next_is_taken.is_none() {
            return Some(QuestionOf::Next(count));
        }
        if self.is_plain() {
            return None;
        }
        if !self.indexes_known {
            return Some(QuestionOf::Index(u32::try_from(self.by_index.len()).unwrap_or(u32::MAX)));
        }
        names.get(self.by_name.len()).map(|name| QuestionOf::Name(name))
    }

    /// Returns the number of variants. 0 for a `Deserialize` written by hand whose indexes are not an enum: it takes all of them
    /// for the same.
    fn count(&self, names: &[&str]) -> usize {
        match self.by_index.len() {
            _ if self.is_plain() => names.len(),
            1 if self.repeats && names.len() > 1 => 0,
            count => count,
        }
    }

    /// Returns all names of a variant.
    fn names_of(&self, index: usize, names: &'static [&'static str]) -> Vec<&'static str> {
        if self.is_plain() {
            return names.get(index).copied().into_iter().collect();
        }
        let wanted = self.by_index.get(index).copied();
        names.iter().zip(&self.by_name).filter(|(_, is)| **is == wanted).map(|(name, _)| *name).collect()
    }

    fn answer(&mut self, question: &QuestionOf, identity: Option<u64>) {
        match question {
            QuestionOf::Last(_) => self.last_is_taken = Some(identity.is_some()),
            QuestionOf::Next(_) => self.next_is_taken = Some(identity.is_some()),
            QuestionOf::Name(_) => self.by_name.push(identity),
            QuestionOf::Index(_) => match identity {
                Some(identity) if !self.by_index.contains(&identity) => self.by_index.push(identity),
                // A catch-all variant takes every index, so an index that repeats an identity is the end.
                again => (self.indexes_known, self.repeats) = (true, again.is_some()),
            },
        }
    }
}

/// Asks an enum for the identity of a number or a name, and ends the pass.
struct Question<'k> {
    known: &'k mut Variants,
    question: QuestionOf,
}

impl<'de> de::EnumAccess<'de> for Question<'_> {
    type Error = Stop;
    type Variant = reflect::Impossible<Stop>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), Stop> {
        let taken = match self.question {
            QuestionOf::Last(index) | QuestionOf::Next(index) | QuestionOf::Index(index) => {
                let index: U32Deserializer<Stop> = index.into_deserializer();
                seed.deserialize(index)
            }
            QuestionOf::Name(name) => {
                let name: StrDeserializer<'_, Stop> = name.into_deserializer();
                seed.deserialize(name)
            }
        };
        self.known.answer(&self.question, taken.ok().map(|taken| reflect::identity_of(&taken)));
        Err(Stop::Again)
    }
}

/// Picks a variant by its index, as the bytes do.
struct Pick<'t> {
    tracer: &'t mut Tracer,
    key: TypeKey,
    index: u32,
    content: &'t mut Option<VariantContent>,
}

impl<'de> de::EnumAccess<'de> for Pick<'_> {
    type Error = Stop;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Stop> {
        let index: U32Deserializer<Stop> = self.index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Pick<'_> {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        *self.content = Some(VariantContent::Unit);
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Stop> {
        let (value, shape) = self.tracer.part(seed, 0, "0")?;
        *self.content = Some(VariantContent::Newtype(shape));
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Stop> {
        let mut parts = TraceAccess { tracer: self.tracer, names: &[], left: len, shapes: Vec::new() };
        let value = visitor.visit_seq(&mut parts)?;
        *self.content = Some(VariantContent::Tuple(parts.shapes));
        Ok(value)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let key = TypeKey { names: fields, ..self.key };
        let (value, fields) = self.tracer.fields(key, fields, visitor)?;
        *self.content = Some(VariantContent::Struct(fields));
        Ok(value)
    }
}

// From the graph to the layout

struct Unfold<'t> {
    tracer: &'t Tracer,
    /// Composite layouts around this one; `None` for the content of a variant, which is no type of its own.
    around: Vec<Option<usize>>,
    parts: usize,
}

impl Unfold<'_> {
    fn layout(&mut self, shape: &Shape) -> Result<Layout, LayoutError> {
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(LayoutError::new(format!("the type has more than {PARTS_MAX} parts")));
        }
        let id = match shape {
            Shape::Leaf(layout) => return Ok(layout.clone()),
            Shape::Node(id) => *id,
        };
        if let Some(up) = self.around.iter().rev().position(|around| *around == Some(id)) {
            return Ok(Layout::Ref(u32::try_from(up + 1).expect("depth is bounded")));
        }
        self.around.push(Some(id));
        let layout = self.node(&self.tracer.graph.nodes[id])?;
        self.around.pop();
        Ok(layout)
    }

    fn node(&mut self, node: &TypeNode) -> Result<Layout, LayoutError> {
        let unseen = || LayoutError::new("a part of the type was never seen");
        Ok(match node {
            TypeNode::Option(inner) => {
                Layout::Option(Box::new(self.layout(inner.as_ref().ok_or_else(unseen)?)?))
            }
            TypeNode::Seq(inner) => Layout::Seq(Box::new(self.layout(inner.as_ref().ok_or_else(unseen)?)?)),
            TypeNode::Map(entry) => {
                let (key, value) = entry.as_ref().ok_or_else(unseen)?;
                Layout::Map(Box::new(self.layout(key)?), Box::new(self.layout(value)?))
            }
            TypeNode::Tuple(parts) => self.tuple(parts.as_ref().ok_or_else(unseen)?)?,
            TypeNode::Struct(fields) => self.fields(fields.as_ref().ok_or_else(unseen)?)?,
            TypeNode::Enum { name, key, variants } => {
                let known = self.tracer.variants.get(key).ok_or_else(unseen)?;
                let mut layouts = Vec::new();
                for (index, content) in variants.iter().enumerate() {
                    let layout = self.content(content.as_ref().ok_or_else(unseen)?)?;
                    layouts.push((Arc::from(self.name_of(name, &known.names_of(index, key.names))?), layout));
                }
                Layout::Enum(layouts)
            }
        })
    }

    /// Returns the name under which the variant is written today, or its first name if no sample shows one.
    fn name_of(&self, of: &'static str, names: &[&'static str]) -> Result<&'static str, LayoutError> {
        let written = names.iter().find(|name| self.tracer.written.contains(&(of, **name)));
        let name = written.or(names.first()).copied();
        name.ok_or_else(|| LayoutError::new(format!("a variant of `{of}` has no name")))
    }

    fn content(&mut self, content: &VariantContent) -> Result<Layout, LayoutError> {
        match content {
            VariantContent::Unit => Ok(Layout::Unit),
            VariantContent::Newtype(shape) => self.layout(shape),
            VariantContent::Tuple(parts) => self.without_type(|unfold| unfold.tuple(parts)),
            VariantContent::Struct(fields) => self.without_type(|unfold| unfold.fields(fields)),
        }
    }

    fn without_type(
        &mut self,
        inside: impl FnOnce(&mut Self) -> Result<Layout, LayoutError>,
    ) -> Result<Layout, LayoutError> {
        self.around.push(None);
        let layout = inside(self)?;
        self.around.pop();
        Ok(layout)
    }

    fn tuple(&mut self, parts: &[Shape]) -> Result<Layout, LayoutError> {
        parts.iter().map(|part| self.layout(part)).collect::<Result<_, _>>().map(Layout::tuple)
    }

    fn fields(&mut self, fields: &[(Arc<str>, Shape)]) -> Result<Layout, LayoutError> {
        let fields = fields.iter().map(|(name, shape)| Ok((Arc::clone(name), self.layout(shape)?)));
        fields.collect::<Result<_, LayoutError>>().map(Layout::Struct)
    }
}
