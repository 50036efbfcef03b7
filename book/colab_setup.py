# In Colab: get the tables, install module and simulator. Elsewhere: nothing.
import sys

if "google.colab" in sys.modules:
    import os
    import subprocess
    from importlib.metadata import version
    from pathlib import Path

    address = "https://github.com/trac-book/trac-book"
    if not Path("../book/results").is_dir():
        if not Path("trac-book").is_dir():
            place = os.environ.get("TRAC_BOOK_REPOSITORY", address)
            clone = ["git", "clone", "--quiet", "--depth", "1", place]
            subprocess.check_call([*clone, "trac-book"])
        os.chdir("trac-book/notebooks")
    source = os.environ.get("TRAC_BOOK_SOURCE", Path("..").resolve().as_uri())
    # torch and numpy stay as Colab has them.
    pins = [f"{name}=={version(name)}" for name in ("torch", "numpy")]
    Path("keep-versions.txt").write_text("\n".join(pins))
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    pip += ["--constraint", "keep-versions.txt"]
    subprocess.check_call([*pip, f"trac-book @ {source}"])
    plain = ["dsrl==0.1.0", "bullet_safety_gym==1.4.0"]
    subprocess.check_call([*pip, "--no-deps", *plain])
    if subprocess.call([*pip, f"trac-book[bullet] @ {source}"]):
        print("No simulator could be installed: all but evaluation runs.")
