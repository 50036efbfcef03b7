# In Colab: install the book's module and its simulator. Elsewhere: nothing.
import sys

if "google.colab" in sys.modules:
    import os
    import subprocess
    from importlib.metadata import version
    from pathlib import Path

    address = "git+https://github.com/trac-book/trac-book"
    source = os.environ.get("TRAC_BOOK_SOURCE", address)
    # torch and numpy stay as Colab has them.
    pins = [f"{name}=={version(name)}" for name in ("torch", "numpy")]
    Path("keep-versions.txt").write_text("\n".join(pins))
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    module = f"trac-book[bullet] @ {source}"
    subprocess.check_call([*pip, "--constraint", "keep-versions.txt", module])
    plain = ["dsrl==0.1.0", "bullet_safety_gym==1.4.0"]
    subprocess.check_call([*pip, "--no-deps", *plain])
