package phone;

import android.content.Context;
import android.content.res.AssetManager;
import java.io.File;

/** An app with assets and files in folders. */
public final class Phone extends Context {
    private final File assets;
    private final File files;

    public Phone(File assets, File files) {
        this.assets = assets;
        this.files = files;
    }

    @Override public AssetManager getAssets() { return new AssetManager(assets); }

    @Override public File getFilesDir() { return files; }

    @Override public Context getApplicationContext() { return this; }
}
