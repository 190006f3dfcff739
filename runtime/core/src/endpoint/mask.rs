//! Sets of endpoints.

/// Endpoints of one destination at most: as many as a [`Mask`] has bits.
pub const MAX_ENDPOINTS: usize = 16;

/// A set of endpoints, by their places in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mask(pub u16);

impl Mask {
    /// All of them.
    pub const ALL: Mask = Mask(u16::MAX);
    /// None.
    pub const NONE: Mask = Mask(0);

    /// Just one.
    pub const fn of(index: u8) -> Mask {
        Mask(1u16.wrapping_shl(index as u32))
    }

    /// Whether it holds this one.
    pub const fn has(self, index: u8) -> bool {
        self.0 & Mask::of(index).0 != 0
    }

    /// This one, too.
    pub const fn with(self, index: u8) -> Mask {
        Mask(self.0 | Mask::of(index).0)
    }

    /// All but this one.
    pub const fn without(self, index: u8) -> Mask {
        Mask(self.0 & !Mask::of(index).0)
    }

    /// The same endpoints at their new places, by their places before.
    pub(crate) fn moved(self, places: &[Option<u8>]) -> Mask {
        if self == Mask::ALL {
            return self;
        }
        let moved = (0u8..).zip(places).filter(|(before, _)| self.has(*before));
        moved.filter_map(|(_, now)| *now).fold(Mask::NONE, Mask::with)
    }

    /// All but those.
    pub(crate) const fn beside(self, those: Mask) -> Mask {
        Mask(self.0 & !those.0)
    }

    /// Those of both.
    pub(super) const fn and(self, other: Mask) -> Mask {
        Mask(self.0 & other.0)
    }

    /// Those of both, or of this one alone where there are none.
    pub(super) const fn within(self, other: Mask) -> Mask {
        if self.0 & other.0 == 0 { self } else { Mask(self.0 & other.0) }
    }
}

/// Which endpoints a call would rather take, best first: the rank of each in four bits, by their places in the
/// configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ranks(pub u64);

impl Ranks {
    /// Any as soon as another.
    pub const NONE: Ranks = Ranks(u64::MAX);
    /// The rank of those that have none.
    const LAST: u8 = 0xf;

    const fn at(index: u8) -> u32 {
        (index as u32 & 0xf) * 4
    }

    /// This one has that rank, too; the first is 0, and from the 15th on all are alike.
    #[must_use]
    pub const fn with(self, index: u8, rank: u8) -> Ranks {
        let rank = if rank < Ranks::LAST { rank } else { Ranks::LAST - 1 };
        Ranks(self.without(index).0 ^ ((Ranks::LAST ^ rank) as u64) << Ranks::at(index))
    }

    /// The rank of this one.
    pub const fn get(self, index: u8) -> Option<u8> {
        let rank = (self.0 >> Ranks::at(index)) as u8 & Ranks::LAST;
        if rank == Ranks::LAST { None } else { Some(rank) }
    }

    /// All but this one have their ranks.
    pub(super) const fn without(self, index: u8) -> Ranks {
        Ranks(self.0 | (Ranks::LAST as u64) << Ranks::at(index))
    }

    /// The same endpoints at their new places, by their places before.
    pub(crate) fn moved(self, places: &[Option<u8>]) -> Ranks {
        let ranked = (0u8..).zip(places).filter_map(|(before, now)| Some(((*now)?, self.get(before)?)));
        ranked.fold(Ranks::NONE, |ranks, (now, rank)| ranks.with(now, rank))
    }

    /// The best of those, where any has a rank.
    pub(super) fn best(self, among: Mask) -> Option<Mask> {
        let ranked =
            || (0..MAX_ENDPOINTS as u8).filter(|index| among.has(*index)).filter_map(|it| Some((self.get(it)?, it)));
        let (best, _) = ranked().min()?;
        Some(ranked().filter(|(rank, _)| *rank == best).fold(Mask::NONE, |mask, (_, index)| mask.with(index)))
    }
}

/// All of them alike.
impl From<Mask> for Ranks {
    fn from(all: Mask) -> Ranks {
        (0..MAX_ENDPOINTS as u8).filter(|index| all.has(*index)).fold(Ranks::NONE, |ranks, index| ranks.with(index, 0))
    }
}

/// Which endpoints a call may take, and which it would rather.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// No others: where none of them is left, the call is refused.
    pub allowed: Mask,
    /// The best of these, unless another is clearly better; none: as configured.
    pub preferred: Ranks,
}

impl Ways {
    /// Any of them.
    pub const ANY: Ways = Ways { allowed: Mask::ALL, preferred: Ranks::NONE };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_those_that_are_there_is_preferred() {
        let ranks = Ranks::NONE.with(2, 0).with(0, 1).with(3, 1).with(15, 40);
        assert_eq!([0, 1, 2, 3, 15].map(|it| ranks.get(it)), [Some(1), None, Some(0), Some(1), Some(14)]);
        for (among, best) in
            [(Mask::ALL, Some(4)), (Mask(0b1011), Some(0b1001)), (Mask(1 << 15), Some(1 << 15)), (Mask(2), None)]
        {
            assert_eq!(ranks.best(among), best.map(Mask), "{among:?}");
        }
        assert_eq!(ranks.with(2, 3).get(2), Some(3));
        assert_eq!(ranks.without(2).best(Mask::ALL), Some(Mask(0b1001)));
        assert_eq!(ranks.moved(&[Some(2), Some(0), None, Some(1)]), Ranks::NONE.with(2, 1).with(1, 1));
        assert_eq!(Ranks::from(Mask(5)), Ranks::NONE.with(0, 0).with(2, 0));
    }
}
