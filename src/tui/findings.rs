//! What limits the gateway on the screen, found again for each snapshot. The facts about the machine are read every
//! few seconds while they are shown.

use super::{app::App, lists, screen::Screen, source::Attachment};
use crate::{
    doctor::{self, DoctorFinding, MachineFacts},
    gateway,
};

impl App {
    /// The most urgent first.
    pub fn findings(&self) -> Vec<DoctorFinding> {
        let absence = self.lost_reason().map(doctor::find_own_absence);
        absence.into_iter().chain(self.lists.findings(self.snapshot())).collect()
    }

    /// Whether the kernel limits are included.
    pub fn knows_machine(&self) -> bool {
        self.lists.machine.is_some() && !self.is_fleet()
    }

    /// Whether findings are shown for a gateway that runs on this machine.
    pub(super) fn wants_machine(&self) -> bool {
        let is_live = matches!(self.attachment(), Attachment::Own | Attachment::Attached(..));
        let is_here = || !self.latest().host.is_empty() && self.latest().host == gateway::host_name();
        self.screen() == Screen::Doctor && is_live && is_here()
    }

    /// Returns whether that changes the screen.
    pub(super) fn set_machine(&mut self, machine: MachineFacts) -> bool {
        let machine = Some(machine);
        let changed = self.lists.machine != machine;
        self.lists.machine = machine;
        changed
    }

    /// The finding whose details are open, or else the selected one.
    pub(super) fn selected_finding(&self) -> Option<DoctorFinding> {
        let key = self.selected_key().filter(|_| self.screen() == Screen::Doctor)?;
        self.findings().into_iter().find(|finding| lists::finding_key(finding) == key)
    }
}
