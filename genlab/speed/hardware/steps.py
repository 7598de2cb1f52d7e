"""The steps of the pack, in the order of their value."""

from genlab.speed.hardware.agreement import Agreement
from genlab.speed.hardware.compiling import Compiling
from genlab.speed.hardware.host import Host
from genlab.speed.hardware.kernels import Kernels
from genlab.speed.hardware.loading import Loading
from genlab.speed.hardware.machine import Machine
from genlab.speed.hardware.race import Race
from genlab.speed.hardware.resume import Resume
from genlab.speed.hardware.sound import Sound
from genlab.speed.hardware.step import Step
from genlab.speed.hardware.throughput import Throughput

STEPS: tuple[Step, ...] = (
    Machine(),
    Agreement(),
    Kernels(),
    Throughput(),
    Race(),
    Sound(),
    Compiling(),
    Resume(),
    Loading(),
    Host(),
)
