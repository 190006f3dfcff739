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

/// Which endpoints a call may take, and which it would rather.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// No others: where none of them is left, the call is refused.
    pub allowed: Mask,
    /// These, unless another is clearly better; none: as configured.
    pub preferred: Mask,
}

impl Ways {
    /// Any of them.
    pub const ANY: Ways = Ways { allowed: Mask::ALL, preferred: Mask::NONE };
}
