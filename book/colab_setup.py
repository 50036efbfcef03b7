# Colab: installs the book's module and its simulator. Anywhere else this cell does nothing.
import sys

if "google.colab" in sys.modules:
    import os
    import subprocess
    from importlib.metadata import version
    from pathlib import Path

    source = os.environ.get("TRAC_BOOK_SOURCE", "git+https://github.com/trac-book/trac-book")
    keep = Path("keep-versions.txt")  # torch and numpy stay as Colab has them
    keep.write_text("".join(f"{name}=={version(name)}\n" for name in ("torch", "numpy")))
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.check_call([*pip, "--constraint", str(keep), f"trac-book[bullet] @ {source}"])
    subprocess.check_call([*pip, "--no-deps", "dsrl==0.1.0", "bullet_safety_gym==1.4.0"])
