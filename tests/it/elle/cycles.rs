//! Cycles in the graph, named by their edges, the worst of each knot with a witness as short as a bounded search finds.
//!
//! Whether there is a cycle is exact: strongly connected parts, by Tarjan. Which class the worst one has is exact for G0 and G1c. For
//! the others, a search that would take too long stops, and the cycle reported may be of a milder class or longer than need be.

use super::graph::{Edge, Graph, Kind, Why};
use super::history::name;
use super::versions::Versions;
use super::{Anomaly, Finding};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// What a cycle is made of, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Writes only: ww.
    G0,
    /// Writes and reads of them: ww, wr.
    G1c,
    /// One overlooked write: a single rw.
    GSingle,
    /// Several overlooked writes, no two in a row.
    GNonadjacent,
    /// Overlooked writes in a row, as in write skew.
    G2Item,
}

impl Class {
    const ALL: [Class; 5] = [Class::G0, Class::G1c, Class::GSingle, Class::GNonadjacent, Class::G2Item];

    /// The kind that every cycle of the class has: a search starts with such an edge.
    fn start(self) -> Kind {
        match self {
            Class::G0 => Kind::Ww,
            Class::G1c => Kind::Wr,
            Class::GSingle | Class::GNonadjacent | Class::G2Item => Kind::Rw,
        }
    }

    /// The kinds that may follow the first edge.
    fn may_follow(self, kind: Kind) -> bool {
        match kind {
            Kind::Wr => self != Class::G0,
            Kind::Rw => self >= Class::GNonadjacent,
            _ => true,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::G0 => "G0",
            Class::G1c => "G1c",
            Class::GSingle => "G-single",
            Class::GNonadjacent => "G-nonadjacent",
            Class::G2Item => "G2-item",
        })
    }
}

/// Which order, beside that of versions, is needed to close the cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// None: no serial order explains the history.
    None,
    /// A process sees its own transactions out of order.
    Process,
    /// A transaction sees a state from before it began.
    RealTime,
}

impl Order {
    fn allows(self, kind: Kind) -> bool {
        match kind {
            Kind::Process => self >= Order::Process,
            Kind::RealTime => self >= Order::RealTime,
            _ => true,
        }
    }

    /// Cycles that lack this kind belong to a weaker order.
    fn needs(self) -> Option<Kind> {
        match self {
            Order::None => None,
            Order::Process => Some(Kind::Process),
            Order::RealTime => Some(Kind::RealTime),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::None => "",
            Order::Process => "-process",
            Order::RealTime => "-realtime",
        })
    }
}

/// Transactions, each before the next for a reason, and the last before the first.
pub struct Cycle {
    steps: Vec<(usize, Why)>,
}

impl Cycle {
    pub fn class(&self) -> Class {
        let count = |kind| self.steps.iter().filter(|(_, why)| why.kind() == kind).count();
        let is_rw = |index: usize| self.steps[index % self.steps.len()].1.kind() == Kind::Rw;
        match count(Kind::Rw) {
            0 if count(Kind::Wr) == 0 => Class::G0,
            0 => Class::G1c,
            1 => Class::GSingle,
            _ if (0..self.steps.len()).any(|index| is_rw(index) && is_rw(index + 1)) => Class::G2Item,
            _ => Class::GNonadjacent,
        }
    }

    pub fn order(&self) -> Order {
        let has = |kind| self.steps.iter().any(|(_, why)| why.kind() == kind);
        match has(Kind::RealTime) {
            true => Order::RealTime,
            false if has(Kind::Process) => Order::Process,
            false => Order::None,
        }
    }

    pub fn finding(&self, versions: &Versions) -> Finding {
        let mut lines = Vec::new();
        for (index, (from, why)) in self.steps.iter().enumerate() {
            let (to, _) = self.steps[(index + 1) % self.steps.len()];
            lines.push(format!("{} before {}: {}", name(*from), name(to), reason(versions, *from, *why, to)));
        }
        for (txn, _) in &self.steps {
            let ops: Vec<String> = versions.history.txns[*txn].ops.iter().map(ToString::to_string).collect();
            lines.push(format!("  {}: {}", name(*txn), ops.join(", ")));
        }
        Finding { anomaly: Anomaly::Cycle(self.class(), self.order()), witness: lines.join("\n") }
    }
}

fn reason(versions: &Versions, from: usize, why: Why, to: usize) -> String {
    let append = |id: u32| &versions.appends[id as usize];
    let value = |id: u32| append(id).value;
    let key = |id: u32| versions.keys[append(id).key].name;
    let (one, other) = (name(from), name(to));
    match why {
        Why::Ww { earlier, later } => {
            format!(
                "{other} appended {} to {} behind the {} of {one} (ww)",
                value(later),
                key(later),
                value(earlier)
            )
        }
        Why::Wr { append } => {
            format!("{other} read {} with the {} of {one} (wr)", key(append), value(append))
        }
        Why::Rw { next } => format!("{one} read {} without the {} of {other} (rw)", key(next), value(next)),
        Why::Process => format!("process {} ran one and then the other", versions.history.txns[from].process),
        Why::RealTime => {
            let (first, second) = (&versions.history.txns[from], &versions.history.txns[to]);
            let returned = first.completed.expect("who comes first in real time has returned");
            format!("{one} returned at {returned}, and {other} began at {}", second.invoked)
        }
    }
}

/// For each order, the worst cycle of each knot that needs that order; milder ones of the same knot are not looked for. Small knots
/// first; the largest of very many are left out.
pub fn worst(graph: &Graph) -> Vec<Cycle> {
    const KNOTS_MAX: usize = 20;
    let mut cycles = Vec::new();
    // The loosest order has all edges: where it has no knot, no other has.
    if knots(graph, &components(graph, |kind| Order::RealTime.allows(kind)), None).is_empty() {
        return cycles;
    }
    let mut search = Search::new(graph);
    for order in [Order::None, Order::Process, Order::RealTime] {
        let parts = components(graph, |kind| order.allows(kind));
        let knots = knots(graph, &parts, order.needs());
        if knots.is_empty() {
            continue;
        }
        let parts_by_class: Vec<Vec<u32>> = Class::ALL
            .map(|class| components(graph, |kind| order.allows(kind) && class.may_follow(kind)))
            .into_iter()
            .collect();
        for knot in knots.iter().take(KNOTS_MAX) {
            let found = Class::ALL.iter().zip(&parts_by_class).find_map(|(class, ranks)| {
                search.worst_of(Quest { class: *class, order, knot, parts: &parts, ranks })
            });
            cycles.extend(found);
        }
    }
    cycles
}

/// The nodes of each part that holds a cycle, and one with an edge of the kind that is needed, smallest first.
fn knots(graph: &Graph, parts: &[u32], needed: Option<Kind>) -> Vec<Vec<u32>> {
    let mut sizes = vec![0u32; parts.len()];
    parts.iter().for_each(|part| sizes[*part as usize] += 1);
    let mut knots: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (node, part) in parts.iter().enumerate().filter(|(_, part)| sizes[**part as usize] > 1) {
        knots.entry(*part).or_default().push(node as u32);
    }
    let inside = |node: u32, kind: Kind| {
        let mut edges = graph.edges[node as usize].iter();
        edges.any(|edge| edge.why.kind() == kind && parts[edge.to as usize] == parts[node as usize])
    };
    let mut knots: Vec<Vec<u32>> = knots.into_values().collect();
    if let Some(kind) = needed {
        knots.retain(|knot| knot.iter().any(|node| inside(*node, kind)));
    }
    knots.sort_by_key(Vec::len);
    knots
}

/// The strongly connected part of each node, by Tarjan, without recursion. Parts are numbered against the edges: what a node reaches
/// has its own number or a lower one.
fn components(graph: &Graph, allows: impl Fn(Kind) -> bool) -> Vec<u32> {
    const NEW: u32 = u32::MAX;
    let nodes = graph.edges.len();
    let (mut part, mut entered, mut lowest) = (vec![NEW; nodes], vec![NEW; nodes], vec![NEW; nodes]);
    let (mut open, mut path) = (Vec::new(), Vec::new());
    let (mut clock, mut parts) = (0, 0);
    for root in 0..nodes {
        if entered[root] != NEW {
            continue;
        }
        path.push((root, 0));
        while let Some((node, next)) = path.pop() {
            if next == 0 {
                (entered[node], lowest[node]) = (clock, clock);
                clock += 1;
                open.push(node);
            }
            let mut edges =
                graph.edges[node][next..].iter().enumerate().filter(|(_, edge)| allows(edge.why.kind()));
            let deeper = edges.find_map(|(skipped, edge)| {
                let to = edge.to as usize;
                if entered[to] == NEW {
                    return Some((next + skipped, to));
                }
                if part[to] == NEW {
                    lowest[node] = lowest[node].min(entered[to]);
                }
                None
            });
            if let Some((at, to)) = deeper {
                // It comes back to this edge, and then takes the child's lowest as that of a node entered before.
                path.push((node, at + 1));
                path.push((to, 0));
                continue;
            }
            if lowest[node] == entered[node] {
                while let Some(member) = open.pop() {
                    part[member] = parts;
                    if member == node {
                        break;
                    }
                }
                parts += 1;
            }
            if let Some((parent, _)) = path.last() {
                lowest[*parent] = lowest[*parent].min(lowest[node]);
            }
        }
    }
    part
}

/// Find a cycle of this class in this knot.
#[derive(Clone, Copy)]
struct Quest<'a> {
    class: Class,
    order: Order,
    knot: &'a [u32],
    /// Parts under all kinds that the order allows: the knot is one of them.
    parts: &'a [u32],
    /// Parts under the kinds that may follow the first edge. A path never climbs to a higher number.
    ranks: &'a [u32],
}

/// Breadth first over nodes and what matters about the way there. Kept between searches for its memory.
struct Search<'g> {
    graph: &'g Graph,
    /// By state: which search reached it, how far it is, the edge that led there, and from where.
    reached: Vec<Reached>,
    round: u32,
    /// Edges looked at since the quest began.
    visits: u64,
}

#[derive(Clone, Copy)]
struct Reached {
    round: u32,
    length: u32,
    from: State,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    node: u32,
    /// The last edge was rw. Kept apart only where two in a row are not wanted.
    after_rw: bool,
    /// The edge that the order needs was taken.
    ordered: bool,
}

impl State {
    fn index(self) -> usize {
        self.node as usize * 4 + usize::from(self.after_rw) * 2 + usize::from(self.ordered)
    }
}

impl<'g> Search<'g> {
    fn new(graph: &'g Graph) -> Search<'g> {
        let nowhere = State { node: 0, after_rw: false, ordered: false };
        let reached = Reached { round: 0, length: 0, from: nowhere, why: Why::Process };
        Search { graph, reached: vec![reached; graph.edges.len() * 4], round: 0, visits: 0 }
    }

    /// The shortest cycle over the edges to start with, as many as time allows.
    fn worst_of(&mut self, quest: Quest) -> Option<Cycle> {
        const VISITS_MAX: u64 = 2_000_000;
        self.visits = 0;
        let mut best: Option<Cycle> = None;
        for from in quest.knot {
            for edge in &self.graph.edges[*from as usize] {
                let inside = quest.parts[edge.to as usize] == quest.parts[*from as usize];
                let may_return = quest.ranks[edge.to as usize] >= quest.ranks[*from as usize];
                if edge.why.kind() != quest.class.start() || !inside || !may_return {
                    continue;
                }
                let bound = best.as_ref().map_or(u32::MAX, |cycle| cycle.steps.len() as u32);
                let cycles = self.shortest_through(quest, *from, *edge, bound);
                let candidates = cycles.into_iter().filter(|cycle| cycle.order() == quest.order);
                best =
                    best.into_iter().chain(candidates).min_by_key(|cycle| (cycle.class(), cycle.steps.len()));
                if self.visits > VISITS_MAX {
                    return best;
                }
            }
        }
        best
    }

    /// The shortest way round that begins with `first` and has fewer than `bound` transactions, taken apart into simple cycles.
    fn shortest_through(&mut self, quest: Quest, from: u32, first: Edge, bound: u32) -> Vec<Cycle> {
        self.round += 1;
        let needs = quest.order.needs();
        let apart = quest.class == Class::GNonadjacent;
        let ranks = quest.ranks[from as usize]..=quest.ranks[first.to as usize];
        let start = State { node: first.to, after_rw: apart, ordered: needs.is_none() };
        self.reached[start.index()] = Reached { round: self.round, length: 1, from: start, why: first.why };
        let mut queue = VecDeque::from([(1, start)]);
        while let Some((length, state)) = queue.pop_front() {
            if state.node == from && state.ordered && !state.after_rw {
                return self.way_round(from, first, state);
            }
            for edge in &self.graph.edges[state.node as usize] {
                self.visits += 1;
                let kind = edge.why.kind();
                let to = edge.to as usize;
                let wanted = quest.order.allows(kind)
                    && quest.class.may_follow(kind)
                    && ranks.contains(&quest.ranks[to])
                    && quest.parts[to] == quest.parts[from as usize]
                    && !(state.after_rw && kind == Kind::Rw);
                // Barriers are no transactions: a way through them is as long as the transactions on it.
                let longer = length + u32::from(self.graph.is_txn(to));
                if !wanted || longer >= bound {
                    continue;
                }
                let next = State {
                    node: edge.to,
                    after_rw: apart && kind == Kind::Rw,
                    ordered: state.ordered || Some(kind) == needs,
                };
                let reached = &mut self.reached[next.index()];
                if reached.round == self.round && reached.length <= longer {
                    continue;
                }
                *reached = Reached { round: self.round, length: longer, from: state, why: edge.why };
                match longer == length {
                    true => queue.push_front((longer, next)),
                    false => queue.push_back((longer, next)),
                }
            }
        }
        Vec::new()
    }

    fn way_round(&self, from: u32, first: Edge, end: State) -> Vec<Cycle> {
        let mut steps = Vec::new();
        let mut state = end;
        loop {
            let reached = self.reached[state.index()];
            if reached.from == state {
                break;
            }
            // From a transaction through barriers to a transaction is one step.
            if self.graph.is_txn(reached.from.node as usize) {
                steps.push((reached.from.node as usize, reached.why));
            }
            state = reached.from;
        }
        steps.push((from as usize, first.why));
        steps.reverse();
        simple_cycles(steps)
    }
}

/// Takes a closed walk apart where it passes a transaction twice.
fn simple_cycles(walk: Vec<(usize, Why)>) -> Vec<Cycle> {
    let mut cycles = Vec::new();
    let mut path: Vec<(usize, Why)> = Vec::new();
    for step in walk {
        if let Some(at) = path.iter().position(|(txn, _)| *txn == step.0) {
            cycles.push(Cycle { steps: path.split_off(at) });
        }
        path.push(step);
    }
    cycles.push(Cycle { steps: path });
    cycles
}
