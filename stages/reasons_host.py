"""What the reason codes of CPU, memory, network, GPU and power mean: (seen, likely cause, next step, owner)."""

from __future__ import annotations

from collections.abc import Mapping

from stages.outcome import ReasonCode as Code

TECHNICIAN = "hardware technician"
OPERATOR = "fleet operator"
SOFTWARE = "fleet software"
NETWORK = "data-centre network"
FACILITY = "data-centre facility"

TEXTS: Mapping[Code, tuple[str, str, str, str]] = {
    Code.CPU_OFFLINE: (
        "Fewer CPUs are online than are present.",
        "The firmware or the kernel took a core out after faults, or a boot parameter limits the number.",
        "Check the BIOS settings and the kernel command line; otherwise replace the CPU.",
        TECHNICIAN,
    ),
    Code.MEMORY_MISSING: (
        "The system can use clearly less memory than its modules add up to.",
        "A module is disabled after a training error, or badly seated.",
        "Look for the disabled slot in the BIOS or BMC log, reseat or replace that module.",
        TECHNICIAN,
    ),
    Code.PCIE_LINK_DEGRADED: (
        "A PCIe device runs at fewer lanes or a lower speed than both ends can do.",
        "The card or riser is badly seated or dirty; some slots are wired narrower than they look.",
        "Reseat the card and the riser; compare with the slot's wiring in the board's manual.",
        TECHNICIAN,
    ),
    Code.CPU_MISCOMPUTE: (
        "A CPU computed a wrong result.",
        "The CPU is defective, or its voltage or cooling is out of bounds.",
        "Do not use the host; replace the CPU that is named, after BIOS settings are back to their defaults.",
        TECHNICIAN,
    ),
    Code.MEMORY_MISCOMPUTE: (
        "Memory gave back other data than was written.",
        "A memory module, its slot or the CPU's memory controller is defective.",
        "Do not use the host; swap modules to find the bad one and replace it.",
        TECHNICIAN,
    ),
    Code.MCE_UNCORRECTED: (
        "The CPU reported a hardware error that it could not correct.",
        "A defective CPU, memory module or bus; the bank in the message says which.",
        "Decode the bank, replace the part, and run again.",
        TECHNICIAN,
    ),
    Code.MCE_CORRECTED: (
        "The CPU reported hardware errors that it corrected.",
        "A part that is getting weak: cache, memory or link, by the bank in the message.",
        "Watch a few; replace the part when they keep coming.",
        TECHNICIAN,
    ),
    Code.ECC_UNCORRECTED: (
        "Memory had an error that ECC could not correct.",
        "The memory module is defective.",
        "Replace the module in the slot that is named.",
        TECHNICIAN,
    ),
    Code.ECC_CORRECTED: (
        "Memory had errors that ECC corrected.",
        "A weak module or a bad contact; a single one can be chance.",
        "Watch a few; reseat or replace the module when there are many.",
        TECHNICIAN,
    ),
    Code.PCIE_AER_FATAL: (
        "A PCIe device had a fatal or uncorrected error.",
        "The card, the riser or the slot is faulty.",
        "Reseat the card, run again, then replace the card, then the riser.",
        TECHNICIAN,
    ),
    Code.PCIE_AER_ERRORS: (
        "A PCIe link had errors that it corrected.",
        "Poor signal: a dirty or loose contact, a long riser or cable.",
        "Reseat the card and the riser, then run again.",
        TECHNICIAN,
    ),
    Code.THERMAL_THROTTLED: (
        "The CPU slowed itself down because of heat for a good part of the test.",
        "A loose heat sink, dried paste, failed fans, missing blanks or a hot aisle.",
        "Check fans, heat sink and room temperature, then run again.",
        TECHNICIAN,
    ),
    Code.THERMAL_CRITICAL: (
        "A sensor passed its critical temperature and the stage was stopped.",
        "Cooling failed under load.",
        "Let the host cool, check fans and heat sinks before any further load.",
        TECHNICIAN,
    ),
    Code.KERNEL_FAULT: (
        "The kernel reported a lock-up, a hung task or an out-of-memory kill during the stage.",
        "Unstable hardware or a driver fault.",
        "Read the kernel log in the evidence; run again with newer firmware and kernel.",
        SOFTWARE,
    ),
    Code.LOAD_OOM_KILLED: (
        "The kernel killed the test load because memory ran out, so nothing was proven.",
        "Something else took memory during the test.",
        "Run the stage again with nothing else on the host, or with a smaller load.",
        OPERATOR,
    ),
    Code.MICROCODE_MISMATCH: (
        "CPUs of the same kind run different microcode.",
        "An update reached only some of the cores or sockets, or a CPU was replaced under firmware too old to know it.",
        "Update the firmware and power-cycle the host; if it stays, replace the CPU that cannot be updated.",
        TECHNICIAN,
    ),
    Code.BMC_EVENT: (
        "The BMC logged an event about the hardware while a stage ran.",
        "A fan, voltage, drive or other sensor that the BMC watches left its bounds.",
        "Read the entry in the BMC's event log, and look at the sensor it names.",
        TECHNICIAN,
    ),
    Code.CPU_SLOW: (
        "One CPU did clearly less work than the others.",
        "Its core is throttled, a BIOS setting holds it back, or something else ran on it.",
        "Run again on an idle host; then compare power limits and cooling of the sockets.",
        TECHNICIAN,
    ),
    Code.NET_LINK_DOWN: (
        "A network port that should be in use has no link.",
        "Cable or transceiver is missing or broken, or the switch port is off.",
        "Check cable and transceiver at both ends, then the switch port.",
        NETWORK,
    ),
    Code.NET_LINK_DEGRADED: (
        "A network link runs slower than both ends offer, or at half duplex.",
        "A damaged cable pair, a wrong transceiver, or one side with fixed settings.",
        "Replace the cable, set both sides to auto-negotiation, then run again.",
        NETWORK,
    ),
    Code.NET_ERRORS: (
        "A network port counted damaged frames or carrier losses during the test.",
        "A bad cable, dirty optics or a failing transceiver.",
        "Clean or replace cable and optics; then try another switch port; then replace the NIC.",
        NETWORK,
    ),
    Code.NET_THROUGHPUT_LOW: (
        "A network port moved clearly less data than its link should.",
        "A congested or wrongly configured path, a slow PCIe slot, or a faulty NIC.",
        "Run again when the network is quiet; compare with another host on the same switch.",
        NETWORK,
    ),
    Code.NET_THROUGHPUT_NOT_TESTED: (
        "No traffic was sent over a network port, so its throughput is not known.",
        "The orchestrator runs on this very host, or no route leads to it over this port.",
        "Run with an orchestrator on another host to test the throughput.",
        OPERATOR,
    ),
    Code.NET_RETRANSMITS: (
        "TCP had to send more data twice than a sound path needs.",
        "Packets get lost: congestion, a duplex mismatch, a bad cable.",
        "Look at the error counters of both ends and at the load of the path.",
        NETWORK,
    ),
    Code.IPERF_UNREACHABLE: (
        "The orchestrator's iperf3 server could not be reached, so throughput was not tested.",
        "It is not running, or a firewall blocks its port.",
        "Start it or open the port, then retry the stage.",
        SOFTWARE,
    ),
    Code.NET_TRANSCEIVER: (
        "A transceiver reports light, current, voltage or heat out of the limits that its maker set.",
        "Dirty or bent fibre, a wrong or ageing transceiver, or too little cooling.",
        "Clean the optics and look at the fibre; then replace the transceiver.",
        NETWORK,
    ),
    Code.NET_PAUSE_STORM: (
        "A network port was told to pause, or told its switch to, so often that the link stands still.",
        "A congested switch, or a NIC that cannot take what arrives.",
        "Look at the switch port's counters and at the flow control settings of both ends.",
        NETWORK,
    ),
    Code.NET_NEIGHBOR: (
        "A network port is cabled to another switch or switch port than expected.",
        "Cables are swapped, or the cabling plan is out of date.",
        "Compare the neighbour that is named with the cabling plan, and move the cable.",
        NETWORK,
    ),
    Code.NET_NEIGHBOR_UNSEEN: (
        "A neighbour is expected at a network port, and none announced itself there.",
        "LLDP is switched off at the switch, or the NIC's firmware keeps the frames to itself.",
        "Switch LLDP on at the switch port, or switch off the LLDP agent in the NIC's firmware.",
        NETWORK,
    ),
    Code.NET_ADDRESS_DUPLICATE: (
        "Another device has the same MAC or IP address.",
        "A cloned configuration, or a NIC with the address of another.",
        "Find the other device by the address that is named, and give one of them its own.",
        NETWORK,
    ),
    Code.NET_MTU_BLACK_HOLE: (
        "Full-size packets get lost on the way to the orchestrator, without a word of it.",
        "The MTU here is larger than a switch or tunnel on the way carries.",
        "Set one MTU along the whole path.",
        NETWORK,
    ),
    Code.GPU_MISSING: (
        "A GPU that should be here was not found or does not answer.",
        "The card has no power, is not seated, or fell off the bus.",
        "Check its power cables and reseat it; replace it if it stays away.",
        TECHNICIAN,
    ),
    Code.GPU_DRIVER_MISSING: (
        "There is a GPU, but no driver to test it with.",
        "The image lacks the driver, or the driver does not support this GPU.",
        "Add the matching driver to the image and run again.",
        SOFTWARE,
    ),
    Code.GPU_HUNG: (
        "The GPU or its driver stopped answering.",
        "The GPU's firmware crashed, or the card has lost its bus.",
        "Power the host off and on, run again; replace the card if it hangs again.",
        TECHNICIAN,
    ),
    Code.GPU_REMAP_FAILED: (
        "The GPU could not replace a bad row of its memory.",
        "Its spare rows are used up.",
        "Replace the GPU.",
        TECHNICIAN,
    ),
    Code.GPU_REMAP_PENDING: (
        "The GPU wants to replace a bad row of its memory, which needs a reset.",
        "An uncorrected memory error happened before.",
        "Reset the GPU or reboot, then run again.",
        OPERATOR,
    ),
    Code.GPU_ECC_UNCORRECTED: (
        "The GPU's memory had errors that ECC could not correct.",
        "The GPU's memory is defective.",
        "Reboot and run again; replace the GPU if they come back.",
        TECHNICIAN,
    ),
    Code.GPU_PAGES_RETIRED: (
        "The GPU has taken as many memory pages out of use as its maker allows.",
        "The GPU's memory is wearing out.",
        "Replace the GPU.",
        TECHNICIAN,
    ),
    Code.GPU_XID: (
        "The GPU's driver reported a hardware error (XID).",
        "By its number: memory, bus, firmware or power of the GPU.",
        "Look the number up in NVIDIA's XID table and follow it; reseat or replace the GPU.",
        TECHNICIAN,
    ),
    Code.GPU_RESET_NEEDED: (
        "The GPU's driver says that the GPU needs a reset, or its host a reboot, before it is used.",
        "The GPU had an error from which it cannot recover by itself.",
        "Reset it or reboot the host as the finding says, then run again; replace the GPU if it comes back.",
        OPERATOR,
    ),
    Code.GPU_PCIE_DEGRADED: (
        "The GPU's PCIe link is narrower or slower than its path allows, under load.",
        "Badly seated card, riser or cable.",
        "Reseat card and riser, then run again.",
        TECHNICIAN,
    ),
    Code.GPU_NVLINK: (
        "An NVLink is down or has new errors.",
        "A bridge or the baseboard has a bad contact.",
        "Reseat the bridge or the module, check the fabric manager, then run again.",
        TECHNICIAN,
    ),
    Code.GPU_FABRIC: (
        "NVSwitches join the GPUs, and the GPUs have not joined the fabric, so that no program can use them.",
        "NVIDIA's Fabric Manager is missing in the image, of another version than the driver, or not running.",
        "Put the Fabric Manager of the driver's version into the image, start it, then run again.",
        SOFTWARE,
    ),
    Code.GPU_THROTTLED: (
        "The GPU slowed itself down because of heat or power for a good part of the test.",
        "Poor airflow or too little power.",
        "Check fans, airflow and power cables, then run again.",
        TECHNICIAN,
    ),
    Code.GPU_OVERHEATED: (
        "The GPU reached the temperature at which it slows down.",
        "Poor airflow, a failed fan or dried paste.",
        "Check the cooling, then run again.",
        TECHNICIAN,
    ),
    Code.GPU_MISCOMPUTE: (
        "The GPU computed a wrong result.",
        "The GPU is defective.",
        "Do not use it; replace the GPU.",
        TECHNICIAN,
    ),
    Code.GPU_MEMORY_ERROR: (
        "The GPU's memory gave back other data than was written.",
        "The GPU's memory is defective.",
        "Replace the GPU.",
        TECHNICIAN,
    ),
    Code.GPU_SLOW: (
        "The GPU did less work than its model should.",
        "Throttling, a power limit, or a degraded link.",
        "Compare clocks, power limit and link with a good host.",
        TECHNICIAN,
    ),
    Code.GPU_NOT_LOADED: (
        "The GPU could not be put under load, so only its idle state was judged.",
        "No load program for this GPU, or it could not start.",
        "Use an image with the GPU load, then run again.",
        SOFTWARE,
    ),
    Code.GPU_DCGM_HEALTH: (
        "NVIDIA's DCGM, which this host runs, reports a health incident of the GPU: a warning beside our own tests.",
        "The system that it names (PCIe, memory, InfoROM, temperature, driver); now and then DCGM's own mistake.",
        "Look at the other findings of this GPU and run again; if DCGM repeats it, follow NVIDIA's list of its errors.",
        OPERATOR,
    ),
    Code.PSU_FAILED: (
        "A power supply reports a failure, or predicts one.",
        "The power supply is defective.",
        "Replace the power supply.",
        TECHNICIAN,
    ),
    Code.PSU_ABSENT: (
        "A power supply that should be here is absent.",
        "It was not fitted, or is not pushed in fully.",
        "Fit or reseat it.",
        TECHNICIAN,
    ),
    Code.PSU_INPUT_LOST: (
        "A power supply gets no input power.",
        "Its cord is out, or its feed is off.",
        "Check the cord, the PDU outlet and the feed.",
        FACILITY,
    ),
    Code.PSU_REDUNDANCY_LOST: (
        "The power supplies are not redundant.",
        "One of them is absent, failed or without input.",
        "Restore the one that is missing, then run again.",
        TECHNICIAN,
    ),
    Code.PSU_EVENT: (
        "The BMC logged a power event while the test ran.",
        "A power supply or its feed dropped under load.",
        "Read the event; check the feed, then replace the power supply.",
        FACILITY,
    ),
    Code.PSU_IMBALANCE: (
        "The power supplies share the load unevenly.",
        "One is weak or its feed is low; some servers do this by design to save power.",
        "Check the BMC's power policy; otherwise watch it.",
        TECHNICIAN,
    ),
    Code.BMC_UNREADABLE: (
        "The BMC does not answer, so power supplies and events could not be judged.",
        "The BMC hangs, or its driver is not loaded.",
        "Reset the BMC (cold), check its driver, then run again.",
        TECHNICIAN,
    ),
}
