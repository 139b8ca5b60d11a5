//! Dealing shuffled domains into groups that stay within the bounds of racks and zones. Pure.
//!
//! ```text
//! deck -> zone decks -> rack decks -> cards: domains in the order of the shuffle
//! ```
//!
//! A card comes from the zone that has given the fewest to the group, of those from the one with
//! the most left, and from its racks by the same rule. A zone that has dealt all it has begins anew:
//! small zones take part in more groups, as they must.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::copysets::Places;

/// Domains that are dealt together, and below them the racks or zones they lie in.
#[derive(Default)]
pub(super) struct Deck {
    decks: Vec<Deck>,
    cards: Vec<u32>,
    next: usize,
    /// Cards not dealt yet, all decks below included.
    left: usize,
    /// Cards given to the group that is being dealt.
    given: usize,
}

impl Deck {
    /// A deck of these domains in this order; `depth` of their places count.
    pub(super) fn of(order: impl Iterator<Item = u32>, places: &[Places], depth: usize) -> Deck {
        let mut deck = Deck::default();
        let mut at = BTreeMap::new();
        for domain in order {
            deck.add(domain, &places[domain as usize][..depth], &mut at);
        }
        deck
    }

    /// `at` knows which of its parent's decks a place is.
    fn add(&mut self, card: u32, places: &[u32], at: &mut BTreeMap<u32, usize>) {
        self.left += 1;
        let Some((place, below)) = places.split_first() else {
            self.cards.push(card);
            return;
        };
        let position = *at.entry(*place).or_insert(self.decks.len());
        if position == self.decks.len() {
            self.decks.push(Deck::default());
        }
        self.decks[position].add(card, below, at);
    }

    /// Whether every domain has been in a group.
    pub(super) fn is_dealt(&self) -> bool {
        self.left == 0
    }

    /// The next member of the group; `None` if nobody is left who may be in it. No place gives more
    /// than `most`.
    pub(super) fn next(&mut self, most: usize) -> Option<u32> {
        let before = self.left;
        let card = if self.decks.is_empty() { self.next_card() } else { self.next_below(most) }?;
        self.given += 1;
        if self.decks.is_empty() {
            self.left = before.saturating_sub(1);
        } else {
            self.left = self.decks.iter().map(|deck| deck.left).sum();
        }
        Some(card)
    }

    fn next_card(&mut self) -> Option<u32> {
        if self.given >= self.cards.len() {
            return None;
        }
        let card = self.cards[self.next];
        self.next = (self.next + 1) % self.cards.len();
        Some(card)
    }

    fn next_below(&mut self, most: usize) -> Option<u32> {
        let mut refused: Vec<usize> = Vec::new();
        loop {
            let free = self.decks.iter().enumerate();
            let free = free.filter(|(at, deck)| deck.given < most && !refused.contains(at));
            let (at, _) = free.min_by_key(|(_, deck)| (deck.given, Reverse(deck.left)))?;
            match self.decks[at].next(most) {
                Some(card) => return Some(card),
                None => refused.push(at),
            }
        }
    }

    /// The group is complete.
    pub(super) fn end_group(&mut self) {
        self.given = 0;
        self.decks.iter_mut().for_each(Deck::end_group);
    }
}
