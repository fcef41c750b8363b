"""Where arrays live: a mesh of devices, partition specs by path, and placement that checks sizes before it moves anything."""
