//! Copysets: which domains share chunks, where there are many domains. Pure.
//!
//! Spread at random, chunks make nearly every handful of domains the whole of some chunk, and any
//! few that die together take data with them. So the domains are shuffled, and dealt into groups
//! of as many as a chunk has shards; some rounds of that (Cidon et al., "Copysets", USENIX ATC 2013):
//!
//! ```text
//! round 0:  b f a | d c e     a chunk of three shards lies in one group, in any order
//! round 1:  c a d | e b f     each domain shares chunks with 2 others a round: its scatter width
//! ```
//!
//! Invariants: the groups follow from the policy and the set of domains alone; no group holds more
//! of a rack or zone than `placement` allows, and each takes its members from as many of them as it
//! can; each domain is in at least one group of each round. A member that cannot take a shard is
//! replaced by one of a few groups that follow, so that the sets in use stay few.

use std::collections::BTreeMap;

use types::checksum::crc64;
use types::redundancy::Redundancy;

use super::deal::Deck;
use super::placement::{self, WIDTHS_MAX, Widths};

/// With fewer domains than this, placement looks at every disk and knows no copysets.
pub const DOMAINS_MIN: usize = 200;
/// As many domains share chunks with one domain, at least.
pub const SCATTER_WIDTH: usize = 100;
/// Groups that are drawn for a new chunk; the one whose disks have the least is taken.
const GROUPS_DRAWN: usize = 8;
/// Groups behind its own in which a stand-in for a member is looked for first.
const SUBSTITUTE_GROUPS: usize = 8;
/// Domains that may stand in for one member of a group.
const STAND_INS_MAX: usize = 8;
/// The place of a domain at a width that is not looked at.
const NO_PLACE: u32 = u32::MAX;
/// What SplitMix64 adds for each number.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The racks and zones of a domain that count, by number.
pub(super) type Places = [u32; WIDTHS_MAX];

/// A disk that may take a shard. Less is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pick {
    /// How much it has been chosen.
    pub weight: u64,
    /// Tie-break.
    pub draw: u64,
    /// The disk.
    pub disk: u64,
}

/// How crowded racks and zones may become when a member of a group is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crowding {
    /// No more than in the group as it was dealt.
    AsDealt,
    /// As much as placement allows.
    WithinBounds,
}

/// The groups of one policy. Domains are numbered as they are sorted.
pub struct Copysets {
    shards: usize,
    /// The most shards of a chunk in one place.
    most: usize,
    /// Groups, one after another.
    members: Vec<u32>,
    /// Where each round ends, in groups.
    rounds: Vec<usize>,
    groups_of: Vec<Vec<u32>>,
    places: Vec<Places>,
}

impl Copysets {
    /// Deals these domains, which are sorted. `None` if they are few, or cannot be dealt within
    /// the bounds of placement, or the policy keeps one shard only.
    pub fn deal(policy: Redundancy, domains: &[String]) -> Option<Copysets> {
        let shards = policy.shards();
        if domains.len() < DOMAINS_MIN || shards < 2 || domains.len() < shards {
            return None;
        }
        let widths = Widths::of(domains.iter().map(String::as_str)).bounded(policy);
        let places = places(domains, &widths);
        let most = placement::most(policy);
        let (mut members, mut rounds) = (Vec::new(), Vec::new());
        for round in 0..SCATTER_WIDTH.div_ceil(shards - 1) {
            let mut order: Vec<(u64, u32)> = (0_u32..).zip(domains).map(|(at, name)| (draw(round, name), at)).collect();
            order.sort_unstable();
            let mut deck = Deck::of(order.iter().map(|(_, at)| *at), &places, widths.len());
            while !deck.is_dealt() {
                for _ in 0..shards {
                    members.push(deck.next(most)?);
                }
                deck.end_group();
            }
            rounds.push(members.len() / shards);
        }
        let mut groups_of = vec![Vec::new(); domains.len()];
        for (at, domain) in members.iter().enumerate() {
            groups_of[*domain as usize].push((at / shards) as u32);
        }
        Some(Copysets { shards, most, members, rounds, groups_of, places })
    }

    /// How many groups there are.
    pub fn count(&self) -> usize {
        self.members.len() / self.shards
    }

    /// The domains of a group.
    pub fn group(&self, group: usize) -> &[u32] {
        &self.members[group * self.shards..(group + 1) * self.shards]
    }

    /// Disks for a new chunk, in order of shard index. `pick` answers the best disk of a domain,
    /// if any of it may take a shard; `draw` answers random numbers.
    pub fn choose(
        &self,
        crowding: Crowding,
        pick: &dyn Fn(u32) -> Option<Pick>,
        draw: &mut dyn FnMut() -> u64,
    ) -> Option<Vec<u64>> {
        let mut best: Option<(u64, Vec<u64>)> = None;
        for _ in 0..GROUPS_DRAWN {
            let group = (draw() % self.count() as u64) as usize;
            let Some(picks) = self.complete(group, crowding, pick) else { continue };
            let weight = picks.iter().map(|pick| pick.weight).sum();
            if best.as_ref().is_none_or(|(least, _)| weight < *least) {
                best = Some((weight, picks.into_iter().map(|pick| pick.disk).collect()));
            }
        }
        let (_, mut disks) = best?;
        // The first shards of a stripe are read most: each member is to have its share of them.
        let turn = draw() % self.shards as u64;
        disks.rotate_left(turn as usize);
        Some(disks)
    }

    /// A disk for each member of the group, or for who stands in for it. `None` if too few are there.
    fn complete(&self, group: usize, crowding: Crowding, pick: &dyn Fn(u32) -> Option<Pick>) -> Option<Vec<Pick>> {
        let mut held = Held::new(self);
        let mut picks = Vec::with_capacity(self.shards);
        for domain in self.group(group) {
            if let Some(found) = pick(*domain) {
                held.add(*domain);
                picks.push(found);
            }
        }
        let lacking = self.shards - picks.len();
        if lacking * 2 > self.shards {
            return None;
        }
        for _ in 0..lacking {
            let (domain, found) = self.substitute(group, &held, pick)?;
            held.add(domain);
            picks.push(found);
        }
        let is_as_dealt = || {
            let mut dealt = Held::new(self);
            self.group(group).iter().for_each(|domain| dealt.add(*domain));
            held.fullest() <= dealt.fullest()
        };
        (lacking == 0 || crowding == Crowding::WithinBounds || is_as_dealt()).then_some(picks)
    }

    /// Disks for `count` shards that a chunk lacks whose others lie in the domains `kept`. First in
    /// the group that most of those are of, else in the groups that follow it.
    pub fn replace(&self, kept: &[u32], count: usize, pick: &dyn Fn(u32) -> Option<Pick>) -> Option<Vec<u64>> {
        let group = self.home(kept)?;
        let mut held = Held::new(self);
        kept.iter().for_each(|domain| held.add(*domain));
        let mut disks = Vec::with_capacity(count);
        for _ in 0..count {
            let own = self.group(group).iter().filter_map(|domain| held.option(*domain, pick)).min();
            let own = own.map(|(_, found, domain)| (domain, found));
            let (domain, found) = own.or_else(|| self.substitute(group, &held, pick))?;
            held.add(domain);
            disks.push(found.disk);
        }
        Some(disks)
    }

    /// The group with the most of these domains.
    fn home(&self, kept: &[u32]) -> Option<usize> {
        let mut groups: Vec<u32> =
            kept.iter().filter_map(|domain| self.groups_of.get(*domain as usize)).flatten().copied().collect();
        groups.sort_unstable();
        let runs = groups.chunk_by(|one, next| one == next);
        runs.min_by_key(|run| std::cmp::Reverse(run.len())).map(|run| run[0] as usize)
    }

    /// The best home in the groups that follow one in its round. Of those that crowd least only the
    /// first few count, so that a group has few variants.
    fn substitute(&self, group: usize, held: &Held<'_>, pick: &dyn Fn(u32) -> Option<Pick>) -> Option<(u32, Pick)> {
        let round = self.rounds.partition_point(|end| *end <= group);
        let first = round.checked_sub(1).map_or(0, |before| self.rounds[before]);
        let count = self.rounds[round] - first;
        let behind = |distance: usize| self.group(first + (group - first + distance) % count);
        let mut distance = 1;
        while distance < count {
            let few = distance..(distance + SUBSTITUTE_GROUPS).min(count);
            distance = few.end;
            let free: Vec<([usize; WIDTHS_MAX], Pick, u32)> =
                few.flat_map(behind).filter_map(|domain| held.option(*domain, pick)).collect();
            let Some(least) = free.iter().map(|(around, ..)| *around).min() else { continue };
            let first = free.into_iter().filter(|(around, ..)| *around == least).take(STAND_INS_MAX);
            return first.map(|(_, found, domain)| (domain, found)).min_by_key(|(_, found)| *found);
        }
        None
    }

    /// Whether shards in these domains are as they should be: each in a domain of its own, and no
    /// rack or zone holds more than it may.
    pub fn is_well_spread(&self, domains: &[u32]) -> bool {
        let mut held = Held::new(self);
        domains.iter().all(|domain| {
            let fits = held.fits(*domain);
            held.add(*domain);
            fits
        })
    }
}

/// Where shards of a chunk lie.
struct Held<'a> {
    sets: &'a Copysets,
    domains: Vec<u32>,
    /// Shards by place; few enough to be looked through.
    counts: Vec<(u32, usize)>,
}

impl Held<'_> {
    fn new(sets: &Copysets) -> Held<'_> {
        Held { sets, domains: Vec::with_capacity(sets.shards), counts: Vec::with_capacity(sets.shards * WIDTHS_MAX) }
    }

    fn add(&mut self, domain: u32) {
        self.domains.push(domain);
        for place in self.sets.places[domain as usize].into_iter().filter(|place| *place != NO_PLACE) {
            match self.counts.iter_mut().find(|(known, _)| *known == place) {
                Some((_, count)) => *count += 1,
                None => self.counts.push((place, 1)),
            }
        }
    }

    fn count(&self, place: u32) -> usize {
        self.counts.iter().find(|(known, _)| *known == place).map_or(0, |(_, count)| *count)
    }

    /// Shards in the zone and the rack of a domain.
    fn around(&self, domain: u32) -> [usize; WIDTHS_MAX] {
        self.sets.places[domain as usize].map(|place| self.count(place))
    }

    fn fits(&self, domain: u32) -> bool {
        !self.domains.contains(&domain) && self.around(domain).iter().all(|count| *count < self.sets.most)
    }

    /// What one more shard in this domain would mean: shards around it already, and its disk.
    fn option(&self, domain: u32, pick: &dyn Fn(u32) -> Option<Pick>) -> Option<([usize; WIDTHS_MAX], Pick, u32)> {
        if !self.fits(domain) {
            return None;
        }
        Some((self.around(domain), pick(domain)?, domain))
    }

    /// The most shards in one place, by width.
    fn fullest(&self) -> [usize; WIDTHS_MAX] {
        let mut most = [0; WIDTHS_MAX];
        for domain in &self.domains {
            for (most, count) in most.iter_mut().zip(self.around(*domain)) {
                *most = count.max(*most);
            }
        }
        most
    }
}

/// The places of each domain at these widths; no two widths share a number.
fn places(domains: &[String], widths: &[usize]) -> Vec<Places> {
    let mut numbers: BTreeMap<(usize, &str), u32> = BTreeMap::new();
    let mut all = vec![[NO_PLACE; WIDTHS_MAX]; domains.len()];
    for (domain, places) in domains.iter().zip(&mut all) {
        for (place, width) in places.iter_mut().zip(widths) {
            let next = numbers.len() as u32;
            *place = *numbers.entry((*width, placement::group(domain, *width))).or_insert(next);
        }
    }
    all
}

/// Where a domain comes in a round. A checksum alone would keep neighbours together in all rounds.
fn draw(round: usize, domain: &str) -> u64 {
    mix(crc64(domain.as_bytes()).wrapping_add((round as u64 + 1).wrapping_mul(STEP)))
}

/// Numbers as if drawn, that follow from the first.
pub(super) fn stream(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(STEP);
        mix(state)
    }
}

/// Spreads every bit of a word over the whole word (SplitMix64).
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests;
