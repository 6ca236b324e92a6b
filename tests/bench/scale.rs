//! How much is measured.

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// So little that it only shows that everything works.
    Quick,
    /// What the table is made of.
    Usual,
    /// What takes longer to make than to measure.
    Long,
}

impl Scale {
    /// That of these which belongs to it.
    pub fn of<T>(self, quick: T, usual: T, long: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Usual => usual,
            Self::Long => long,
        }
    }
}
