"""Make hosts on one machine: network namespaces of Linux that meet on a bridge.

Processes of two hosts share files, and neither addresses nor ports. It takes the rights of root;
without them there is one host, this machine.
"""

import dataclasses
import os
import shutil
import subprocess

NETWORK = "10.9.{run}.{host}"


@dataclasses.dataclass(frozen=True)
class Host:
    """Say where a process of a host is started and reached.

    Attributes:
      address: of the host, as the others see it.
      enter: put before a command, it runs there.
    """

    address: str
    enter: tuple[str, ...] = ()


class Hosts:
    """Make a number of hosts, or one if this machine allows no more; `remove` takes them away.

    Attributes:
      launcher: the address of this machine, as its hosts see it.
      hosts: that were made.
    """

    def __init__(self, count: int) -> None:
        self._run = os.getpid() % 200 + 20
        self._made: list[list[str]] = []  # the commands that take away what was made
        self.launcher, self.hosts = "127.0.0.1", [Host("127.0.0.1")]
        if count > 1 and os.geteuid() == 0 and shutil.which("ip"):
            try:
                self._make(count)
            except subprocess.CalledProcessError:
                self.remove()

    def _make(self, count: int) -> None:
        bridge, launcher = f"beam{self._run}", NETWORK.format(run=self._run, host=1)
        _ip("link", "add", bridge, "type", "bridge")
        self._made.append(["link", "del", bridge])
        _ip("addr", "add", f"{launcher}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        hosts = [self._make_host(bridge, number) for number in range(1, count + 1)]
        self.launcher, self.hosts = launcher, hosts

    def _make_host(self, bridge: str, number: int) -> Host:
        name, address = f"{bridge}h{number}", NETWORK.format(run=self._run, host=10 + number)
        outside, inside = f"{name}o", f"{name}i"
        _ip("netns", "add", name)
        self._made.append(["netns", "del", name])
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        _ip("link", "set", outside, "master", bridge, "up")
        _ip("link", "set", inside, "netns", name)
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", inside)
        for device in (inside, "lo"):
            _ip("-n", name, "link", "set", device, "up")
        return Host(address, ("ip", "netns", "exec", name))

    def remove(self) -> None:
        """Take away all that was made."""
        while self._made:
            subprocess.run(["ip", *self._made.pop()], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)
