//! What limits the gateway that is shown, found anew in each picture.

use super::{app::App, lists, screen::Screen, source::Attachment};
use crate::{
    doctor::{DoctorFinding, MachineFacts},
    gateway,
};

impl App {
    /// The most urgent first.
    pub fn findings(&self) -> Vec<DoctorFinding> {
        self.lists.findings(self.snapshot())
    }

    /// Whether what the kernel allows is among them.
    pub fn knows_machine(&self) -> bool {
        self.lists.machine.is_some() && !self.is_fleet()
    }

    /// Whether findings are shown of a gateway that runs on this machine.
    pub(super) fn wants_machine(&self) -> bool {
        let is_live = matches!(self.attachment(), Attachment::Own | Attachment::Attached(..));
        let is_here = || !self.latest().host.is_empty() && self.latest().host == gateway::host_name();
        self.screen() == Screen::Doctor && is_live && is_here()
    }

    /// Says whether the screen changes by it.
    pub(super) fn set_machine(&mut self, machine: MachineFacts) -> bool {
        let machine = Some(machine);
        let changed = self.lists.machine != machine;
        self.lists.machine = machine;
        changed
    }

    /// The one that is told of in full, or else under the cursor.
    pub(super) fn selected_finding(&self) -> Option<DoctorFinding> {
        let key = self.selected_key().filter(|_| self.screen() == Screen::Doctor)?;
        self.findings().into_iter().find(|finding| lists::finding_key(finding) == key)
    }
}
